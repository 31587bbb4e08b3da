// Causal, windowed, grouped-query attention, forward, on tensor cores: out = softmax(scale q k^T) v over the keys that a position sees,
// lse = log sum exp (natural), after FlashAttention-2 (arXiv 2307.08691). Head dims 16, 32, 64 and 128; no gradients here.
//
// q and out (B, T, H, D), k and v (B, S, K, D) bf16, all 16-byte aligned; lse (B, H, T) f32. Query t stands at position S - T + t and sees
// keys position - window .. position. scale_log2 = scale log2(e) > 0, so that exponentials are powers of two.
//
// One block of four warps for 64 queries of one head, 16 rows a warp. Tiles of 64 keys and values go through shared memory, the next one
// under way while this one is used; they are aligned to the block's first query and visited from its own position backwards, so that
// each row has seen a key after the first tile and its maximum is finite ever after. Only tiles with a visible key are visited, only those
// at an edge are masked. Scores, maxima and sums are f32; probabilities are rounded to bf16 as operands.
//
// Bytes: q read and out and lse written once; of k and v, for each block, the rows from its first tile to its last query.
#include "tensor_core.cuh"

constexpr int QUERIES = 64;
constexpr int KEYS = 64;

template <int D>
__device__ __forceinline__ void attend(
    __nv_bfloat16* out, float* lse, const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
    int T, int S, int H, int K, int window, float scale_log2) {
    using Rows = Tile<D>;
    extern __shared__ __align__(128) uint8_t memory[];
    // Two stages of a tile of keys and one of values.
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    const auto stage = [&](int i) { return shared + (i & 1) * (2 * Rows::BYTES); };

    // A head's blocks are neighbours, for its keys to be found in the L2 cache; the longest rows come first.
    const int blocks = (T + QUERIES - 1) / QUERIES;
    const int first_query = (blocks - 1 - blockIdx.x % blocks) * QUERIES;
    const int head = blockIdx.x / blocks % H;
    const int64_t batch = blockIdx.x / blocks / H;
    const int64_t q_stride = static_cast<int64_t>(H) * D, kv_stride = static_cast<int64_t>(K) * D;
    const int64_t q_start = batch * T * q_stride + head * D;
    const int64_t kv_start = batch * S * kv_stride + head / (H / K) * D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    const int first_position = S - T + first_query;
    const int earlier_tiles = static_cast<unsigned>(min(window, first_position) + KEYS - 1) / KEYS;
    const auto copy_tile = [&](int i) {
        const int first_key = first_position - i * KEYS;
        Rows::copy(stage(i), k + kv_start, first_key, S, kv_stride);
        Rows::copy(stage(i) + Rows::BYTES, v + kv_start, first_key, S, kv_stride);
        commit_copies();
    };

    // Queries pass through the second stage into registers.
    Rows::copy(stage(1), q + q_start, first_query, T, q_stride);
    commit_copies();
    copy_tile(0);
    wait_for_copies<1>();
    __syncthreads();
    uint32_t query[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; ++i) Rows::left(query[i], stage(1), warp * 16, i);

    // Of rows lane / 4 and lane / 4 + 8 of the warp's: position, largest score, and this lane's share of the sum.
    const int position[2] = {first_position + warp * 16 + lane / 4, first_position + warp * 16 + lane / 4 + 8};
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    float result[D / 8][4] = {};

#pragma unroll 1
    for (int i = 0; i <= earlier_tiles; ++i) {
        // This tile has come, and every warp is done with the one before, whose place the next one takes.
        wait_for_copies<0>();
        __syncthreads();
        if (i < earlier_tiles) copy_tile(i + 1);
        const uint32_t keys = stage(i), values = keys + Rows::BYTES;

        float score[KEYS / 8][4] = {};
#pragma unroll
        for (int c = 0; c < D / 16; ++c) {
#pragma unroll
            for (int n = 0; n < KEYS / 16; ++n) {
                uint32_t b[4];
                Rows::right(b, keys, n * 16, c);
                multiply(score[2 * n], query[c], b[0], b[1]);
                multiply(score[2 * n + 1], query[c], b[2], b[3]);
            }
        }

        const int first_key = first_position - i * KEYS;
        if (i == 0 || first_key < max(0, first_position + QUERIES - 1 - window)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const int key = first_key + n * 8 + lane % 4 * 2 + j % 2, at = position[j / 2];
                    if (key > at || key < max(0, at - window)) score[n][j] = -INFINITY;
                }
            }
        }

        float offset[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float most = largest[r];
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) most = fmaxf(most, fmaxf(score[n][2 * r], score[n][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            const float before = __fmul_rn(largest[r], scale_log2);
            largest[r] = most;
            offset[r] = __fmul_rn(most, scale_log2);
            const float kept = power_of_2(before - offset[r]);
            sum[r] *= kept;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                result[n][2 * r] *= kept;
                result[n][2 * r + 1] *= kept;
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                score[n][j] = power_of_2(fmaf(score[n][j], scale_log2, -offset[j / 2]));
                sum[j / 2] += score[n][j];
            }
        }

#pragma unroll
        for (int c = 0; c < KEYS / 16; ++c) {
            uint32_t probability[4];
            left_of(probability, score[2 * c], score[2 * c + 1]);
#pragma unroll
            for (int n = 0; n < D / 16; ++n) {
                uint32_t b[4];
                Rows::right_by_rows(b, values, c * 16, n);
                multiply(result[2 * n], probability, b[0], b[1]);
                multiply(result[2 * n + 1], probability, b[2], b[3]);
            }
        }
    }

    const int first_row = first_query + warp * 16;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        const int row = lane / 4 + r * 8;
        if (lane % 4 == 0 && first_row + row < T) {
            lse[(batch * H + head) * T + first_row + row] = (__fmul_rn(largest[r], scale_log2) + log2f(sum[r])) * 0.69314718f;
        }
        inverse[r] = 1.0f / sum[r];
    }
    // By way of the stage that the last tile did not use.
    Rows::store(stage(earlier_tiles + 1), result, inverse, out + q_start + first_row * q_stride, q_stride, T - first_row);
}

#define ATTENTION(D)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, blocks_at_once(D)) attention_##D(                                               \
        __nv_bfloat16* __restrict__ out, float* __restrict__ lse, const __nv_bfloat16* __restrict__ q,                                \
        const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v, int T, int S, int H, int K, int window,             \
        float scale_log2) {                                                                                                           \
        attend<D>(out, lse, q, k, v, T, S, H, K, window, scale_log2);                                                                 \
    }
ATTENTION(16)
ATTENTION(32)
ATTENTION(64)
ATTENTION(128)
