// Gated value embeddings and their gradient. v, ve (N, K, D), x (N, C) with C >= G, w (K, G) bf16; gate (N, K), dw (K, G) f32:
//
//   gate[n, k] = max sigmoid(sum_g w[k, g] x[n, g]), v += gate ve
//
// Arithmetic is f32. A group of `lanes` lanes takes a head: D/8 of them with 16-byte accesses (`wide`: D/8 a power of two up to 32, and
// aligned views), else a whole warp element by element.
//
// Bytes for each head of a row: 6 D (v read and written, ve), 4 for the gate, and 4 G for x and w, which come from cache for all heads
// but one. Backward: 6 D (dv, ve, dve), 4, and for each row 6 G (x, dx read and written).
#include "common.cuh"
#include "groups.cuh"

// Gradients by the gates' logits that a block keeps at a time.
constexpr int KEPT = 4096;

extern "C" __global__ void __launch_bounds__(THREADS) value_gate(
    __nv_bfloat16* __restrict__ v, float* __restrict__ gate, const __nv_bfloat16* __restrict__ ve, const __nv_bfloat16* __restrict__ x,
    const __nv_bfloat16* __restrict__ w, int64_t heads, int K, int D, int C, int G, float max, int lanes, int wide) {
    const int64_t head = grid_thread() / lanes;
    const int lane = threadIdx.x % lanes;
    // Lanes without a head stay for the sum.
    const bool inside = head < heads;
    float seen = 0.0f;
    if (inside) {
        const __nv_bfloat16* row = x + head / K * C;
        const __nv_bfloat16* weight = w + head % K * G;
#pragma unroll 1
        for (int i = lane; i < G; i += lanes) seen = fmaf(__bfloat162float(row[i]), __bfloat162float(weight[i]), seen);
    }
    seen = group_sum(seen, lanes);
    if (!inside) return;
    const float factor = max / (1.0f + expf(-seen));
    if (lane == 0) gate[head] = factor;
    v += head * D;
    ve += head * D;
    if (wide) {
        float sum[8], added[8];
        widen8(sum, load8(v + lane * 8));
        widen8(added, load8(ve + lane * 8));
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] = fmaf(factor, added[i], sum[i]);
        store8(v + lane * 8, narrow8(sum));
    } else {
#pragma unroll 1
        for (int i = lane; i < D; i += lanes) {
            v[i] = __float2bfloat16_rn(fmaf(factor, __bfloat162float(ve[i]), __bfloat162float(v[i])));
        }
    }
}

// dve = gate dv; dx[n, g] += sum_k dlogit[n, k] w[k, g] over the first G channels; partials[block, k, g] = the sum over the block's rows
// of dlogit[n, k] x[n, g]. Block i takes rows i rows_per_block ... of N, `rows` at a time: rows K <= KEPT.
extern "C" __global__ void __launch_bounds__(THREADS) value_gate_backward(
    __nv_bfloat16* __restrict__ dve, float* __restrict__ partials, __nv_bfloat16* __restrict__ dx, const __nv_bfloat16* __restrict__ dv,
    const __nv_bfloat16* __restrict__ ve, const float* __restrict__ gate, const __nv_bfloat16* __restrict__ x,
    const __nv_bfloat16* __restrict__ w, int64_t N, int64_t rows_per_block, int rows, int K, int D, int C, int G, float max, int lanes,
    int wide) {
    __shared__ float dlogit[KEPT];
    const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = THREADS / lanes;
    partials += static_cast<int64_t>(blockIdx.x) * K * G;
    const int64_t begin = blockIdx.x * rows_per_block, end = min(N, begin + rows_per_block);
#pragma unroll 1
    for (int64_t first = begin; first < end; first += rows) {
        const int here = static_cast<int>(min(static_cast<int64_t>(rows), end - first));
#pragma unroll 1
        for (int i = group; i - group < here * K; i += groups) {
            const bool inside = i < here * K;
            const int64_t head = first * K + i;
            float factor = 0.0f, along = 0.0f;
            if (inside) {
                factor = gate[head];
                const __nv_bfloat16 *dv_head = dv + head * D, *ve_head = ve + head * D;
                if (wide) {
                    float a[8], b[8];
                    widen8(a, load8(dv_head + lane * 8));
                    widen8(b, load8(ve_head + lane * 8));
#pragma unroll
                    for (int j = 0; j < 8; ++j) {
                        along = fmaf(a[j], b[j], along);
                        a[j] *= factor;
                    }
                    store8(dve + head * D + lane * 8, narrow8(a));
                } else {
#pragma unroll 1
                    for (int j = lane; j < D; j += lanes) {
                        const float a = __bfloat162float(dv_head[j]);
                        along = fmaf(a, __bfloat162float(ve_head[j]), along);
                        dve[head * D + j] = __float2bfloat16_rn(factor * a);
                    }
                }
            }
            along = group_sum(along, lanes);
            // gate = max sigmoid(logit), and sigmoid' = sigmoid (1 - sigmoid).
            if (inside && lane == 0) dlogit[i] = along * factor * (1.0f - factor / max);
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < K * G; i += THREADS) {
            const int k = i / G, g = i % G;
            float sum = first == begin ? 0.0f : partials[i];
#pragma unroll 4
            for (int n = 0; n < here; ++n) sum = fmaf(dlogit[n * K + k], __bfloat162float(x[(first + n) * C + g]), sum);
            partials[i] = sum;
        }
#pragma unroll 1
        for (int i = threadIdx.x; i < here * G; i += THREADS) {
            const int n = i / G, g = i % G;
            __nv_bfloat16* at = dx + (first + n) * C + g;
            float sum = __bfloat162float(*at);
#pragma unroll 4
            for (int k = 0; k < K; ++k) sum = fmaf(dlogit[n * K + k], __bfloat162float(w[k * G + g]), sum);
            *at = __float2bfloat16_rn(sum);
        }
        __syncthreads();
    }
}

// Partial sums that a block of value_gate_weights adds up.
constexpr int FOLDED = 64;

// The sums over `count` rows of partials (count, n), which are `step` rows apart, in pieces of FOLDED rows: a piece's sum takes the place of its
// first row, and is one of the rows of the next launch; a last launch, of one piece, adds to dw (n) instead. Block: one piece of 32 columns, a warp
// every eighth row, the warps' sums in their order; the columns vary fastest. Reads 4 bytes a partial sum; dw is read and written once.
extern "C" __global__ void __launch_bounds__(THREADS)
value_gate_weights(float* __restrict__ dw, float* __restrict__ partials, int count, int64_t step, int n, int last) {
    constexpr int WARPS = THREADS / 32;
    __shared__ float parts[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int strips = (n + 31) / 32;
    const int first = static_cast<int>(blockIdx.x / strips) * FOLDED, column = static_cast<int>(blockIdx.x % strips) * 32 + lane;
    partials += first * step * n + column;
    float sum = 0.0f;
    if (column < n) {
#pragma unroll
        for (int r = 0; r < FOLDED; r += WARPS)
            if (first + r + warp < count) sum += partials[(r + warp) * step * n];
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= n) return;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) sum += parts[w][lane];
    if (last) {
        dw[column] += sum;
    } else {
        *partials = sum;
    }
}
