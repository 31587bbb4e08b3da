// The gradients of attention.cu's attention by q, k and v, on tensor cores, after FlashAttention-2 (arXiv 2307.08691), with T = S. With
// scores s = scale q k^T, probabilities p = exp(s - lse) and delta = sum_d dout out:
//
//   dv = p^T dout, ds = p (dout v^T - delta), dq = scale ds k, dk = scale ds^T q
//
// Without atomics, so that the same call gives the same bits: one kernel has a block for 64 queries of a head and sums dq over their keys,
// another has a block for 64 keys of a key/value head and sums dk and dv over the queries, of all of its query heads, that see them. Both
// compute scores and their gradients, seven products of matrices where five would do. Sums are f32; p and ds are rounded to bf16 as
// operands.
//
// q, dout and dq (B, T, H, D), k, v, dk and dv (B, T, K, D) bf16, 16-byte aligned; lse and delta (B, H, T) f32. A position t sees
// t - window .. t. scale_log2 = scale log2(e).
#include "common.cuh"
#include "groups.cuh"
#include "tensor_core.cuh"

constexpr int KEYS = 64;
constexpr float LOG2_E = 1.44269504f;

// delta = sum_d dout out for each of `rows` rows of (B, T, H). A group of `lanes` lanes takes a row: D/8 of them by 16-byte accesses
// (`wide`: D/8 a power of two up to 32, and aligned views), else a whole warp.
//
// Bytes: 4 D + 4 for each row.
extern "C" __global__ void __launch_bounds__(THREADS) attention_delta(
    float* __restrict__ delta, const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ out, int64_t rows, int T, int H,
    int D, int lanes, int wide) {
    const int64_t row = grid_thread() / lanes;
    const int lane = threadIdx.x % lanes;
    float sum = 0.0f;
    // Lanes without a row stay for the sum.
    if (row < rows) {
        dout += row * D;
        out += row * D;
        if (wide) {
            float a[8], b[8];
            widen8(a, load8(dout + lane * 8));
            widen8(b, load8(out + lane * 8));
#pragma unroll
            for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
        } else {
#pragma unroll 1
            for (int i = lane; i < D; i += lanes) sum = fmaf(__bfloat162float(dout[i]), __bfloat162float(out[i]), sum);
        }
    }
    sum = group_sum(sum, lanes);
    if (row < rows && lane == 0) {
        const int64_t position = row / H;
        delta[(position / T * H + row % H) * T + position % T] = sum;
    }
}

// One block of four warps for 64 queries of one head, tiles of 64 keys and values as in attention.cu.
//
// Bytes: q, dout, lse and delta read and dq written once; of k and v, for each block, the rows from its first tile to its last query.
template <int D>
__device__ __forceinline__ void queries(
    __nv_bfloat16* dq, const __nv_bfloat16* dout, const float* lse, const float* delta, const __nv_bfloat16* q, const __nv_bfloat16* k,
    const __nv_bfloat16* v, int T, int H, int K, int window, float scale, float scale_log2) {
    using Rows = Tile<D>;
    extern __shared__ __align__(128) uint8_t memory[];
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    const auto stage = [&](int i) { return shared + (i & 1) * (2 * Rows::BYTES); };

    const int blocks = (T + KEYS - 1) / KEYS;
    const int first_query = (blocks - 1 - blockIdx.x % blocks) * KEYS;
    const int head = blockIdx.x / blocks % H;
    const int64_t batch = blockIdx.x / blocks / H;
    const int64_t q_stride = static_cast<int64_t>(H) * D, kv_stride = static_cast<int64_t>(K) * D;
    const int64_t q_start = batch * T * q_stride + head * D;
    const int64_t kv_start = batch * T * kv_stride + head / (H / K) * D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    const int earlier_tiles = static_cast<unsigned>(min(window, first_query) + KEYS - 1) / KEYS;
    const auto copy_tile = [&](int i) {
        const int first_key = first_query - i * KEYS;
        Rows::copy(stage(i), k + kv_start, first_key, T, kv_stride);
        Rows::copy(stage(i) + Rows::BYTES, v + kv_start, first_key, T, kv_stride);
        commit_copies();
    };

    // Queries and their gradients pass through the second stage into registers.
    Rows::copy(stage(1), q + q_start, first_query, T, q_stride);
    Rows::copy(stage(1) + Rows::BYTES, dout + q_start, first_query, T, q_stride);
    commit_copies();
    copy_tile(0);
    wait_for_copies<1>();
    __syncthreads();
    uint32_t query[D / 16][4], gradient[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
        Rows::left(query[i], stage(1), warp * 16, i);
        Rows::left(gradient[i], stage(1) + Rows::BYTES, warp * 16, i);
    }

    // Of rows lane / 4 and lane / 4 + 8 of the warp's.
    const int position[2] = {first_query + warp * 16 + lane / 4, first_query + warp * 16 + lane / 4 + 8};
    float offset[2], along[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int64_t at = (batch * H + head) * T + position[r];
        offset[r] = position[r] < T ? lse[at] * LOG2_E : 0.0f;
        along[r] = position[r] < T ? delta[at] : 0.0f;
    }
    float result[D / 8][4] = {};

#pragma unroll 1
    for (int i = 0; i <= earlier_tiles; ++i) {
        // This tile has come, and every warp is done with the one before, whose place the next one takes.
        wait_for_copies<0>();
        __syncthreads();
        if (i < earlier_tiles) copy_tile(i + 1);
        const uint32_t keys = stage(i), values = keys + Rows::BYTES;
        const int first_key = first_query - i * KEYS;
        const bool edge = i == 0 || first_key < max(0, first_query + KEYS - 1 - window);

        // Half of a tile at a time, for the registers.
#pragma unroll 1
        for (int half = 0; half < KEYS; half += 32) {
            float score[4][4] = {}, dscore[4][4] = {};
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    uint32_t b[4];
                    Rows::right(b, keys, half + n * 16, c);
                    multiply(score[2 * n], query[c], b[0], b[1]);
                    multiply(score[2 * n + 1], query[c], b[2], b[3]);
                    Rows::right(b, values, half + n * 16, c);
                    multiply(dscore[2 * n], gradient[c], b[0], b[1]);
                    multiply(dscore[2 * n + 1], gradient[c], b[2], b[3]);
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int key = first_key + half + n * 8 + lane % 4 * 2 + j % 2, at = position[j / 2];
                    const bool seen = !edge || (key <= at && key >= max(0, at - window));
                    const float probability = seen ? power_of_2(fmaf(score[n][j], scale_log2, -offset[j / 2])) : 0.0f;
                    dscore[n][j] = probability * (dscore[n][j] - along[j / 2]);
                }
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                uint32_t a[4];
                left_of(a, dscore[2 * c], dscore[2 * c + 1]);
#pragma unroll
                for (int n = 0; n < D / 16; ++n) {
                    uint32_t b[4];
                    Rows::right_by_rows(b, keys, half + c * 16, n);
                    multiply(result[2 * n], a, b[0], b[1]);
                    multiply(result[2 * n + 1], a, b[2], b[3]);
                }
            }
        }
    }

    // By way of the stage that the last tile did not use.
    const float factor[2] = {scale, scale};
    const int first_row = first_query + warp * 16;
    Rows::store(stage(earlier_tiles + 1), result, factor, dq + q_start + first_row * q_stride, q_stride, T - first_row);
}

// One block of four warps for 64 keys of one key/value head, 16 keys a warp; tiles of QUERIES queries and their gradients, lse and delta go
// through shared memory, the next one under way while this one is used: head after head of the group, from the block's own positions on.
//
// Bytes: k and v read and dk and dv written once; of q, dout, lse and delta, for each block and head, the rows from its first key to the
// last query of its last tile.
template <int D, int QUERIES>
__device__ __forceinline__ void keys(
    __nv_bfloat16* dk, __nv_bfloat16* dv, const __nv_bfloat16* dout, const float* lse, const float* delta, const __nv_bfloat16* q,
    const __nv_bfloat16* k, const __nv_bfloat16* v, int T, int H, int K, int window, float scale, float scale_log2) {
    using Own = Tile<D>;
    using Rows = Tile<D, QUERIES>;
    // A stage: queries, their gradients, lse, delta.
    constexpr int STAGE = 2 * Rows::BYTES + 8 * QUERIES;
    extern __shared__ __align__(128) uint8_t memory[];
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    const uint32_t own_keys = shared, own_values = shared + Own::BYTES;
    const auto stage = [&](int i) { return shared + 2 * Own::BYTES + (i & 1) * STAGE; };

    // The first keys are seen by the most queries, and come first.
    const int blocks = (T + KEYS - 1) / KEYS;
    const int first_key = blockIdx.x % blocks * KEYS;
    const int kv_head = blockIdx.x / blocks % K;
    const int64_t batch = blockIdx.x / blocks / K;
    const int64_t q_stride = static_cast<int64_t>(H) * D, kv_stride = static_cast<int64_t>(K) * D;
    const int64_t kv_start = batch * T * kv_stride + kv_head * D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    // Queries first_key .. first_key + seen see a key of this block.
    const int group = H / K, seen = min(T - first_key, min(T, window) + KEYS);
    const int tiles = static_cast<unsigned>(seen + QUERIES - 1) / QUERIES;
    const auto copy_tile = [&](int i) {
        const int head = kv_head * group + i / tiles, first_query = first_key + i % tiles * QUERIES;
        const int64_t start = batch * T * q_stride + head * D;
        Rows::copy(stage(i), q + start, first_query, T, q_stride);
        Rows::copy(stage(i) + Rows::BYTES, dout + start, first_query, T, q_stride);
        if (threadIdx.x < 2 * QUERIES) {
            const int row = threadIdx.x % QUERIES;
            const bool inside = first_query + row < T;
            const float* from = threadIdx.x < QUERIES ? lse : delta;
            copy4(
                stage(i) + 2 * Rows::BYTES + threadIdx.x * 4, from + (batch * H + head) * T + (inside ? first_query + row : 0), inside);
        }
        commit_copies();
    };

    Own::copy(own_keys, k + kv_start, first_key, T, kv_stride);
    Own::copy(own_values, v + kv_start, first_key, T, kv_stride);
    copy_tile(0);
    float dkey[D / 8][4] = {}, dvalue[D / 8][4] = {};

#pragma unroll 1
    for (int i = 0; i < group * tiles; ++i) {
        // This tile has come, and every warp is done with the one before, whose place the next one takes.
        wait_for_copies<0>();
        __syncthreads();
        if (i + 1 < group * tiles) copy_tile(i + 1);
        const uint32_t queries = stage(i), gradients = queries + Rows::BYTES, statistics = gradients + Rows::BYTES;
        const int first_query = first_key + i % tiles * QUERIES;
        const bool edge = first_query < first_key + KEYS || first_query + QUERIES - 1 - window > first_key;

        // A row for each key, a column for each query; 32 columns at a time, for the registers.
#pragma unroll 1
        for (int half = 0; half < QUERIES; half += 32) {
            float score[4][4] = {}, dscore[4][4] = {};
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
                uint32_t a[4];
                Own::left(a, own_keys, warp * 16, c);
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    uint32_t b[4];
                    Rows::right(b, queries, half + n * 16, c);
                    multiply(score[2 * n], a, b[0], b[1]);
                    multiply(score[2 * n + 1], a, b[2], b[3]);
                }
                Own::left(a, own_values, warp * 16, c);
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    uint32_t b[4];
                    Rows::right(b, gradients, half + n * 16, c);
                    multiply(dscore[2 * n], a, b[0], b[1]);
                    multiply(dscore[2 * n + 1], a, b[2], b[3]);
                }
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const int column = half + n * 8 + lane % 4 * 2;
                float offset[2], along[2];
                load8_shared(offset, statistics + column * 4);
                load8_shared(along, statistics + (QUERIES + column) * 4);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int key = first_key + warp * 16 + lane / 4 + j / 2 * 8, at = first_query + column + j % 2;
                    const bool visible = !edge || (key <= at && key >= at - window);
                    score[n][j] = visible ? power_of_2(fmaf(score[n][j], scale_log2, -offset[j % 2] * LOG2_E)) : 0.0f;
                    dscore[n][j] = score[n][j] * (dscore[n][j] - along[j % 2]);
                }
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                uint32_t p[4], ds[4];
                left_of(p, score[2 * c], score[2 * c + 1]);
                left_of(ds, dscore[2 * c], dscore[2 * c + 1]);
#pragma unroll
                for (int n = 0; n < D / 16; ++n) {
                    uint32_t b[4];
                    Rows::right_by_rows(b, gradients, half + c * 16, n);
                    multiply(dvalue[2 * n], p, b[0], b[1]);
                    multiply(dvalue[2 * n + 1], p, b[2], b[3]);
                    Rows::right_by_rows(b, queries, half + c * 16, n);
                    multiply(dkey[2 * n], ds, b[0], b[1]);
                    multiply(dkey[2 * n + 1], ds, b[2], b[3]);
                }
            }
        }
    }

    // By way of the warp's own keys and values, which no other warp has read.
    const int first_row = first_key + warp * 16;
    const int64_t start = kv_start + first_row * kv_stride;
    const float one[2] = {1.0f, 1.0f}, factor[2] = {scale, scale};
    __syncwarp();
    Own::store(own_keys, dkey, factor, dk + start, kv_stride, T - first_row);
    Own::store(own_values, dvalue, one, dv + start, kv_stride, T - first_row);
}

#define ATTENTION_BACKWARD(D, QUERIES)                                                                                                \
    extern "C" __global__ void __launch_bounds__(128, blocks_at_once(D)) attention_queries_##D(                                       \
        __nv_bfloat16* __restrict__ dq, const __nv_bfloat16* __restrict__ dout, const float* __restrict__ lse,                        \
        const float* __restrict__ delta, const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,                    \
        const __nv_bfloat16* __restrict__ v, int T, int H, int K, int window, float scale, float scale_log2) {                        \
        queries<D>(dq, dout, lse, delta, q, k, v, T, H, K, window, scale, scale_log2);                                                \
    }                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128, blocks_at_once(D)) attention_keys_##D(                                          \
        __nv_bfloat16* __restrict__ dk, __nv_bfloat16* __restrict__ dv, const __nv_bfloat16* __restrict__ dout,                       \
        const float* __restrict__ lse, const float* __restrict__ delta, const __nv_bfloat16* __restrict__ q,                          \
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v, int T, int H, int K, int window, float scale,       \
        float scale_log2) {                                                                                                           \
        keys<D, QUERIES>(dk, dv, dout, lse, delta, q, k, v, T, H, K, window, scale, scale_log2);                                      \
    }
ATTENTION_BACKWARD(16, 64)
ATTENTION_BACKWARD(32, 64)
ATTENTION_BACKWARD(64, 64)
ATTENTION_BACKWARD(128, 32)
