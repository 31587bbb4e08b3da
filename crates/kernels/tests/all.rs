//! All integration tests of this crate, in one program: they are linked once. Apart: `nvidia`, which runs itself as another process, and `same_bits.rs`, which
//! is packed for machines with a GPU.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

#[macro_use]
mod delegate;

mod attention;
mod common;
mod conform;
mod conformance;
mod cuda_attention;
mod cuda_attention_backward;
mod cuda_counters;
mod cuda_kernels;
mod cuda_loss;
mod cuda_map;
mod cuda_pointwise;
mod cuda_product;
mod cuda_rotary;
mod driver;
mod gradients;
mod large;
mod mutations;
mod mutations_attention;
mod placed;
mod polar_express;
mod ptx_memory;
mod rounded;
mod shapes;
mod threads;
mod traced;
mod wanted;
mod watched;
