//! Mistakes in the forward kernel.

use super::edit::*;

const F: &str = "attention_64";

pub(crate) const MUTATIONS: &[Mutation] = &[
    // Waits.
    m(F, "queries are not waited for", &[Edit("cp.async.wait_group", "1", 0, "")], IN_FLIGHT),
    m(
        F,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(
        F,
        "queries' copies are not committed",
        &[Edit("cp.async.commit_group", "", 0, "")],
        IN_FLIGHT,
    ),
    m(
        F,
        "the next tile's copies are not committed",
        &[Edit("cp.async.commit_group", "", 2, "")],
        IN_FLIGHT,
    ),
    // Barriers.
    m(
        F,
        "no barrier between the queries' wait and their use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        F,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 1, "")],
        IN_FLIGHT,
    ),
    m(
        F,
        "no barrier between results' way into shared memory and out",
        &[Edit("bar.warp.sync", "-1", 0, "")],
        "not caught: the lanes of a warp run in step here",
    ),
    // Stages.
    m(
        F,
        "the next tile goes where this one is",
        &[Edit("shl.b32", "14", 0, "shl.b32 {0}, {1}, 13;")],
        IN_FLIGHT,
    ),
    m(F, "results go where the last tile is", &[Edit("not.b32", "", 1, "mov.b32 {0}, {1};")], RACE),
    // Swizzles.
    m(F, "queries are copied without one", &[Edit("xor.b32", "", 0, "mov.b32 {0}, {2};")], WRONG),
    m(F, "keys are read without one", &[Edit("xor.b32", "", 5, "mov.b32 {0}, {2};")], WRONG),
    m(F, "values are read without one", &[Edit("xor.b32", "", 9, "mov.b32 {0}, {1};")], WRONG),
    m(
        F,
        "there is none",
        &[
            Edit("xor.b32", "", 12, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 11, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 10, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 9, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 8, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 7, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 6, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 5, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 4, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 3, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 2, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 1, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 0, "mov.b32 {0}, {2};"),
        ],
        BANKS,
    ),
    // Masks.
    m(
        F,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 12, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        F,
        "a column's window is one key short",
        &[Edit("setp.lt.s32", "", 12, "setp.le.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        F,
        "a tile with one key outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        F,
        "the diagonal's tile is not masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.ge.s32 {0}, {1}, 0;")],
        WRONG,
    ),
    m(
        F,
        "every tile is masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.lt.s32 {0}, {1}, 0;")],
        "not caught: the result is the same, only instructions are lost",
    ),
    // Bounds.
    m(
        F,
        "a tile of which the window reaches one key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        WRONG,
    ),
    m(F, "one tile too many", &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 127;")], BYTES),
    m(
        F,
        "queries beyond the last are read",
        &[Edit("setp.lt.s32", "", 3, "setp.ne.s32 {0}, {1}, -1;")],
        BOUNDS,
    ),
    m(
        F,
        "keys before the first are read",
        &[Edit("setp.gt.s32", "-1", 2, "setp.ne.s32 {0}, {1}, 1000000;")],
        BOUNDS,
    ),
    m(
        F,
        "keys that are not there are read",
        &[Edit("selp.b32", "%p15", 0, "mov.b32 {0}, 16;")],
        BYTES,
    ),
    m(
        F,
        "an lse beyond the last query is written",
        &[Edit("setp.ge.s32", "", 1, "setp.lt.s32 {0}, {1}, 0;")],
        RACE,
    ),
    m(
        F,
        "a result beyond the last query is written",
        &[Edit("setp.ge.s32", "", 3, "setp.lt.s32 {0}, {1}, 0;")],
        BOUNDS,
    ),
    // Initial values and the softmax.
    m(
        F,
        "the maximum starts at 0",
        &[Edit("mov.f32", "0fFF800000", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        F,
        "the maximum is not subtracted",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        F,
        "sums are not rescaled when the maximum grows",
        &[Edit("ex2.approx.ftz.f32", "", 0, "mov.f32 {0}, 0f3F800000;")],
        WRONG,
    ),
    m(
        F,
        "the maximum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        F,
        "the sum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 4, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    // Indices.
    m(
        F,
        "every query head has keys of its own",
        &[Edit("div.s32", "", 1, "mov.b32 {0}, {1};")],
        BOUNDS,
    ),
    m(F, "queries are the first positions", &[Edit("sub.s32", "", 2, "mov.b32 {0}, 0;")], WRONG),
];
