// Causal, windowed, grouped-query attention for any head dim, scale and alignment: what attention.cu and attention_backward.cu have no
// tensor-core kernel for. Plain and slow, the same bits every time.
//
// One warp for a query and up to 256 columns of its result: 32 keys at a time, first a key for each lane (scores), then a column for
// each lane (the sum of values). Wider heads take a warp for every 256 columns, each with the scores computed anew.
#include "common.cuh"

constexpr int WARPS = 4;
// Columns of a warp, by 32.
constexpr int COLUMNS = 8;

// Shapes as in attention.cu. scale_log2 = scale log2(e), any number.
//
// Bytes: for each query, its row and the rows of the keys and values that it sees, times the 256-column parts of D for q and k; out and
// lse written once.
extern "C" __global__ void __launch_bounds__(WARPS * 32) attention_plain(
    __nv_bfloat16* __restrict__ out, float* __restrict__ lse, const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
    const __nv_bfloat16* __restrict__ v, int64_t rows, int T, int S, int H, int K, int D, int window, float scale_log2) {
    const int lane = threadIdx.x % 32;
    const int parts = max(1, (D + COLUMNS * 32 - 1) / (COLUMNS * 32));
    const int64_t job = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    // Rows are those of (B, T, H).
    const int64_t row = job / parts;
    if (row >= rows) return;
    const int first_column = job % parts * (COLUMNS * 32) + lane;
    const int head = row % H, t = row / H % T;
    const int64_t batch = row / H / T, stride = static_cast<int64_t>(K) * D;
    const int position = S - T + t, first_key = max(0, position - window);
    q += row * D;
    k += batch * S * stride + head / (H / K) * D;
    v += batch * S * stride + head / (H / K) * D;

    float largest = -INFINITY, sum = 0.0f, result[COLUMNS] = {};
#pragma unroll 1
    for (int block = first_key; block <= position; block += 32) {
        const int seen = min(32, position - block + 1);
        float score = -INFINITY;
        if (lane < seen) {
            const __nv_bfloat16* key = k + (block + lane) * stride;
            float dot = 0.0f;
#pragma unroll 2
            for (int d = 0; d < D; ++d) dot = fmaf(__bfloat162float(q[d]), __bfloat162float(key[d]), dot);
            score = dot * scale_log2;
        }
        const float most = warp_max(fmaxf(largest, score));
        const float kept = exp2f(largest - most), probability = exp2f(score - most);
        largest = most;
        sum = sum * kept + probability;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) result[c] *= kept;
#pragma unroll 1
        for (int i = 0; i < seen; ++i) {
            const float p = __shfl_sync(0xffffffffu, probability, i);
            const __nv_bfloat16* value = v + (block + i) * stride;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const int d = first_column + c * 32;
                if (d < D) result[c] = fmaf(p, __bfloat162float(value[d]), result[c]);
            }
        }
    }
    sum = warp_sum(sum);
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const int d = first_column + c * 32;
        if (d < D) out[row * D + d] = __float2bfloat16_rn(result[c] * inverse);
    }
    if (job % parts == 0 && lane == 0) {
        lse[(batch * H + head) * T + t] = (largest + log2f(sum)) * 0.69314718f;
    }
}

// A score's probability and its gradient, of query and key rows of D elements.
__device__ __forceinline__ void pair_of(
    float& probability, float& dscore, const __nv_bfloat16* q, const __nv_bfloat16* dout, const __nv_bfloat16* k, const __nv_bfloat16* v,
    float lse, float delta, int D, float scale_log2) {
    float score = 0.0f, along = 0.0f;
#pragma unroll 2
    for (int d = 0; d < D; ++d) {
        score = fmaf(__bfloat162float(q[d]), __bfloat162float(k[d]), score);
        along = fmaf(__bfloat162float(dout[d]), __bfloat162float(v[d]), along);
    }
    probability = exp2f(score * scale_log2 - lse * 1.44269504f);
    dscore = probability * (along - delta);
}

// The gradient by q, for any head dim; see attention_backward.cu. One warp for a query and 256 columns.
extern "C" __global__ void __launch_bounds__(WARPS * 32) attention_queries_plain(
    __nv_bfloat16* __restrict__ dq, const __nv_bfloat16* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ delta,
    const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v, int64_t rows, int T,
    int H, int K, int D, int window, float scale, float scale_log2) {
    const int lane = threadIdx.x % 32;
    const int parts = max(1, (D + COLUMNS * 32 - 1) / (COLUMNS * 32));
    const int64_t job = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int64_t row = job / parts;
    if (row >= rows) return;
    const int first_column = job % parts * (COLUMNS * 32) + lane;
    const int head = row % H, position = row / H % T, first_key = max(0, position - window);
    const int64_t batch = row / H / T, stride = static_cast<int64_t>(K) * D;
    k += batch * T * stride + head / (H / K) * D;
    v += batch * T * stride + head / (H / K) * D;
    const int64_t at = (batch * H + head) * T + position;

    float result[COLUMNS] = {};
#pragma unroll 1
    for (int block = first_key; block <= position; block += 32) {
        const int seen = min(32, position - block + 1);
        float probability, dscore = 0.0f;
        if (lane < seen) {
            const int64_t key = (block + lane) * stride;
            pair_of(probability, dscore, q + row * D, dout + row * D, k + key, v + key, lse[at], delta[at], D, scale_log2);
        }
#pragma unroll 1
        for (int i = 0; i < seen; ++i) {
            const float ds = __shfl_sync(0xffffffffu, dscore, i);
            const __nv_bfloat16* key = k + (block + i) * stride;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const int d = first_column + c * 32;
                if (d < D) result[c] = fmaf(ds, __bfloat162float(key[d]), result[c]);
            }
        }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const int d = first_column + c * 32;
        if (d < D) dq[row * D + d] = __float2bfloat16_rn(result[c] * scale);
    }
}

// The gradients by k and v, for any head dim; see attention_backward.cu. One warp for a key and 256 columns.
extern "C" __global__ void __launch_bounds__(WARPS * 32) attention_keys_plain(
    __nv_bfloat16* __restrict__ dk, __nv_bfloat16* __restrict__ dv, const __nv_bfloat16* __restrict__ dout, const float* __restrict__ lse,
    const float* __restrict__ delta, const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k,
    const __nv_bfloat16* __restrict__ v, int64_t rows, int T, int H, int K, int D, int window, float scale, float scale_log2) {
    const int lane = threadIdx.x % 32;
    const int parts = max(1, (D + COLUMNS * 32 - 1) / (COLUMNS * 32));
    const int64_t job = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    // Rows are those of (B, T, K).
    const int64_t row = job / parts;
    if (row >= rows) return;
    const int first_column = job % parts * (COLUMNS * 32) + lane;
    const int group = H / K, first_head = row % K * group, key = row / K % T;
    const int64_t batch = row / K / T, stride = static_cast<int64_t>(H) * D;
    const int last = key + min(T - 1 - key, window);

    float dkey[COLUMNS] = {}, dvalue[COLUMNS] = {};
#pragma unroll 1
    for (int head = first_head; head < first_head + group; ++head) {
        const __nv_bfloat16* queries = q + batch * T * stride + head * D;
        const __nv_bfloat16* gradients = dout + batch * T * stride + head * D;
        const int64_t statistics = (batch * H + head) * T;
#pragma unroll 1
        for (int block = key; block <= last; block += 32) {
            const int seen = min(32, last - block + 1);
            float probability = 0.0f, dscore = 0.0f;
            if (lane < seen) {
                const int64_t query = (block + lane) * stride, at = statistics + block + lane;
                pair_of(probability, dscore, queries + query, gradients + query, k + row * D, v + row * D, lse[at], delta[at], D, scale_log2);
            }
#pragma unroll 1
            for (int i = 0; i < seen; ++i) {
                const float p = __shfl_sync(0xffffffffu, probability, i), ds = __shfl_sync(0xffffffffu, dscore, i);
                const int64_t query = (block + i) * stride;
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) {
                    const int d = first_column + c * 32;
                    if (d < D) {
                        dvalue[c] = fmaf(p, __bfloat162float(gradients[query + d]), dvalue[c]);
                        dkey[c] = fmaf(ds, __bfloat162float(queries[query + d]), dkey[c]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const int d = first_column + c * 32;
        if (d < D) {
            dk[row * D + d] = __float2bfloat16_rn(dkey[c] * scale);
            dv[row * D + d] = __float2bfloat16_rn(dvalue[c]);
        }
    }
}
