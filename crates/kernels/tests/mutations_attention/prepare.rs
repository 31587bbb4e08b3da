//! Mistakes in what prepares attention's operands: rotary embedding with QK-norm, and value gates. The conformance bodies judge them.

use super::edit::*;

pub(crate) const MUTATIONS: &[Mutation] = &[
    m(
        "rotary_norm",
        "one position too many",
        &[Edit("setp.ge.s64", "", 0, "setp.gt.s64 {0}, {1}, {2};")],
        BOUNDS,
    ),
    m(
        "rotary_norm",
        "heads beyond the last",
        &[Edit("setp.ge.s32", "", 0, "setp.lt.s32 {0}, {1}, 0;")],
        RACE,
    ),
    m(
        "rotary_norm",
        "a column turns the other way",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, {1};")],
        WRONG,
    ),
    m(
        "rotary_norm",
        "each lane has a mean of its own",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        "rotary_norm",
        "rstd is not written",
        &[Edit("setp.ne.s32", "0", 0, "setp.ge.s32 {0}, {1}, 0;")],
        WRONG,
    ),
    m(
        "rotary_norm_plain",
        "one head too many",
        &[Edit("setp.ge.s64", "", 0, "setp.gt.s64 {0}, {1}, {2};")],
        BOUNDS,
    ),
    m(
        "rotary_norm_backward",
        "one position too many",
        &[Edit("setp.ge.s64", "", 0, "setp.gt.s64 {0}, {1}, {2};")],
        BOUNDS,
    ),
    m(
        "rotary_norm_backward",
        "each lane has a mean of its own",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        "rotary_norm_backward",
        "a column's own part is not taken off",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        "rotary_norm_backward_plain",
        "one head too many",
        &[Edit("setp.ge.s64", "", 0, "setp.gt.s64 {0}, {1}, {2};")],
        BOUNDS,
    ),
    m(
        "value_gate",
        "one head too many",
        &[Edit("setp.ge.s64", "", 0, "setp.gt.s64 {0}, {1}, {2};")],
        BOUNDS,
    ),
    m(
        "value_gate",
        "the gate falls where it should rise",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, {1};")],
        WRONG,
    ),
    m(
        "value_gate",
        "each lane has a logit of its own",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        "value_gate_backward",
        "no barrier before gradients of logits are read",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        "value_gate_backward",
        "the sigmoid has a slope of 1",
        &[
            Edit("div.rn.f32", "", 0, "mov.f32 {0}, 0f00000000;"),
            Edit("div.rn.f32", "", 0, "mov.f32 {0}, 0f00000000;"),
        ],
        WRONG,
    ),
    m(
        "value_gate_weights",
        "one weight too many",
        &[Edit("setp.ge.s32", "", 9, "setp.gt.s32 {0}, {1}, {2};")],
        BOUNDS,
    ),
];
