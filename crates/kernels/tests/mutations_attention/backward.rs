//! Mistakes in the backward pass's kernels, of queries and of keys.

use super::edit::*;

const Q: &str = "attention_queries_64";
const K: &str = "attention_keys_64";

pub(crate) const MUTATIONS: &[Mutation] = &[
    // The gradient by queries.
    m(Q, "queries are not waited for", &[Edit("cp.async.wait_group", "1", 0, "")], IN_FLIGHT),
    m(
        Q,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(
        Q,
        "no barrier between the queries' wait and their use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        Q,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 1, "")],
        IN_FLIGHT,
    ),
    m(
        Q,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 8, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        Q,
        "a column's window is one key short",
        &[Edit("setp.lt.s32", "", 8, "setp.le.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        Q,
        "a tile with one key outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        Q,
        "a tile of which the window reaches one key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        WRONG,
    ),
    m(
        Q,
        "statistics beyond the last query are read",
        &[Edit("setp.ge.s32", "", 0, "setp.lt.s32 {0}, {1}, 0;")],
        BOUNDS,
    ),
    m(Q, "delta is not subtracted", &[Edit("sub.f32", "", 0, "mov.f32 {0}, {1};")], WRONG),
    m(
        Q,
        "a row's lse is not in powers of two",
        &[Edit("mul.f32", "0f3FB8AA3B", 0, "mov.f32 {0}, {1};")],
        WRONG,
    ),
    // The gradients by keys and values.
    m(
        K,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(K, "keys' copies are not committed", &[Edit("cp.async.commit_group", "", 0, "")], IN_FLIGHT),
    m(
        K,
        "the next tile's copies are not committed",
        &[Edit("cp.async.commit_group", "", 1, "")],
        IN_FLIGHT,
    ),
    m(
        K,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        K,
        "the next tile goes where this one is",
        &[Edit("mul.lo.s32", "16896", 0, "mov.u32 {0}, 0;")],
        IN_FLIGHT,
    ),
    m(K, "keys are read without a swizzle", &[Edit("xor.b32", "", 1, "mov.b32 {0}, {1};")], WRONG),
    m(
        K,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 10, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        K,
        "a tile with one query outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        K,
        "a tile of which one query sees a key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        IN_FLIGHT,
    ),
    m(
        K,
        "the last query that sees a key is left out",
        &[Edit("add.s32", "64", 0, "add.s32 {0}, {1}, 63;")],
        WRONG,
    ),
    m(
        K,
        "statistics beyond the last query are read",
        &[Edit("selp.b32", "%p15", 1, "mov.b32 {0}, 4;")],
        BYTES,
    ),
    m(K, "the group's first head alone", &[Edit("div.u32", "", 2, "mov.b32 {0}, 0;")], WRONG),
    m(K, "delta is not subtracted", &[Edit("sub.f32", "", 0, "mov.f32 {0}, {1};")], WRONG),
    m(
        K,
        "no barrier between results' way into shared memory and out",
        &[Edit("bar.warp.sync", "-1", 1, "")],
        "not caught: the lanes of a warp run in step here",
    ),
];
