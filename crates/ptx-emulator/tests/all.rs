//! All integration tests of this crate, in one program: they are linked once.
//! Apart: `hostile.rs`, which counts every allocation of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::cast_abs_to_unsigned,
    clippy::double_comparisons,
    clippy::eq_op,
    clippy::manual_is_multiple_of,
    clippy::manual_midpoint,
    clippy::needless_range_loop,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::nonminimal_bool,
    clippy::precedence,
    clippy::precedence_bits,
    clippy::verbose_bit_mask,
    reason = "references are written as their definitions read"
)]
#![allow(
    clippy::items_after_statements,
    clippy::type_complexity,
    reason = "a table's type stands beside the table"
)]
#![allow(
    clippy::format_collect,
    clippy::format_push_string,
    clippy::unreadable_literal,
    reason = "PTX is put together from pieces"
)]

mod common;
mod conformance;
mod conversions;
mod faults;
mod matrices;
mod memory;
mod mutations;
mod nvcc;
mod opcodes;
