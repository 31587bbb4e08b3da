// Smear: each position with a gated share of the one before it, and the gradient. x, out, dout and dx (B, T, C) bf16, gate (B, T) f32, w (1, G) bf16
// with G <= C, lambda (1) f32, prev (B, C) bf16:
//
//   gate_t = sigmoid(sum_g w[g] x_t[g]),  out_t = x_t + lambda gate_t x_{t-1}
//
// where x_{-1} is prev; without prev (null) gate_0 = 0 and out_0 = x_0. Arithmetic is f32. A warp takes a row, with 16-byte accesses when C is a
// multiple of 8 and every pointer is 16-byte aligned, else element by element.
#include "common.cuh"

constexpr int WARPS = THREADS / 32;
// Gradients by the gates' logits that a block keeps at a time.
constexpr int KEPT = 128;

// What an output row is made of: out = x + scale · before, over the row's elements of this lane.
__device__ __forceinline__ void add_before(
    __nv_bfloat16* __restrict__ out, const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ before, float scale, int C,
    bool whole
) {
    const int lane = threadIdx.x % 32;
    if (whole) {
#pragma unroll 1
        for (int i = lane * 8; i < C; i += 256) {
            float f[8], g[8];
            widen8(f, load8(x + i));
            widen8(g, load8(before + i));
#pragma unroll
            for (int j = 0; j < 8; ++j) f[j] = fmaf(scale, g[j], f[j]);
            store8(out + i, narrow8(f));
        }
    } else {
#pragma unroll 1
        for (int i = lane; i < C; i += 32)
            out[i] = __float2bfloat16_rn(fmaf(scale, __bfloat162float(before[i]), __bfloat162float(x[i])));
    }
}

// n = B·T rows. Moves per row: reads 4·C bytes (half of them the row before, from cache) and 2·G, writes 2·C + 4; each warp reads lambda and w.
extern "C" __global__ void __launch_bounds__(THREADS) smear(
    __nv_bfloat16* __restrict__ out, float* __restrict__ gate, const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ prev,
    const __nv_bfloat16* __restrict__ w, const float* __restrict__ lambda, int n, int T, int C, int G
) {
    const int lane = threadIdx.x % 32;
    const int64_t row = grid_thread() / 32;
    if (row >= n) return;
    const bool whole = C % 8 == 0 && aligned16(out) && aligned16(x) && aligned16(prev);
    const int64_t at = row * C;
    const int t = static_cast<int>(row) % T;
    // The row before, if there is one; the row itself, none of which is added, if there is not.
    const bool alone = t == 0 && prev == nullptr;
    const __nv_bfloat16* before = alone ? x + at : t == 0 ? prev + row / T * C : x + at - C;
    float seen = 0.0f, share = 0.0f;
    if (!alone) {
#pragma unroll 1
        for (int i = lane; i < G; i += 32) seen = fmaf(__bfloat162float(w[i]), __bfloat162float(x[at + i]), seen);
        share = 1.0f / (1.0f + expf(-warp_sum(seen)));
    }
    if (lane == 0) gate[row] = share;
    if (alone) {
        // Not x + 0 · x, which would make a NaN of what is infinite.
        if (whole) {
#pragma unroll 1
            for (int i = lane * 8; i < C; i += 256)
                *reinterpret_cast<uint4*>(out + at + i) = *reinterpret_cast<const uint4*>(x + at + i);
        } else {
#pragma unroll 1
            for (int i = lane; i < C; i += 32) out[at + i] = x[at + i];
        }
        return;
    }
    add_before(out + at, x + at, before, *lambda * share, C, whole);
}

// sum_i dout[i] before[i] over a row, in every lane.
__device__ __forceinline__ float
dot_row(const __nv_bfloat16* __restrict__ dout, const __nv_bfloat16* __restrict__ before, int C, bool whole) {
    const int lane = threadIdx.x % 32;
    float sum = 0.0f;
    if (whole) {
#pragma unroll 1
        for (int i = lane * 8; i < C; i += 256) {
            float f[8], g[8];
            widen8(f, load8(dout + i));
            widen8(g, load8(before + i));
#pragma unroll
            for (int j = 0; j < 8; ++j) sum = fmaf(f[j], g[j], sum);
        }
    } else {
#pragma unroll 1
        for (int i = lane; i < C; i += 32) sum = fmaf(__bfloat162float(dout[i]), __bfloat162float(before[i]), sum);
    }
    return warp_sum(sum);
}

// One element: dout, the next row's share of it, and what the gate passes on to the first G channels.
__device__ __forceinline__ float gathered(float dout, float next, float scale, float dlogit, const __nv_bfloat16* w, int i, int G) {
    const float f = fmaf(scale, next, dout);
    return i < G ? fmaf(dlogit, __bfloat162float(w[i]), f) : f;
}

// dx = dout + lambda gate_{t+1} dout_{t+1} + dlogit w over the first G channels, with dlogit_t = lambda gate_t (1 − gate_t) dout_t·x_{t−1}.
// Block i takes rows i·rows … of n, and leaves in partials[i·(G + 1) …] its share of dw[g] = sum dlogit_t x_t[g] for each g, and then of
// dlambda = sum gate_t dout_t·x_{t−1}. smear_sums has to follow.
// Moves per row: reads 8·C bytes (half of them from cache), 2·G and 8, writes 2·C.
extern "C" __global__ void __launch_bounds__(THREADS) smear_backward(
    __nv_bfloat16* __restrict__ dx, float* __restrict__ partials, const __nv_bfloat16* __restrict__ dout,
    const __nv_bfloat16* __restrict__ x, const float* __restrict__ gate, const __nv_bfloat16* __restrict__ w,
    const float* __restrict__ lambda_, int n, int rows, int T, int C, int G
) {
    __shared__ float dlogits[KEPT], shares[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool whole = C % 8 == 0 && aligned16(dx) && aligned16(dout) && aligned16(x);
    const float lambda = *lambda_;
    partials += static_cast<int64_t>(blockIdx.x) * (G + 1);
    const int begin = blockIdx.x * rows, end = min(n, begin + rows);
    float dlambda = 0.0f;
#pragma unroll 1
    for (int first = begin; first < end; first += KEPT) {
        const int here = min(KEPT, end - first);
#pragma unroll 1
        for (int r = warp; r < here; r += WARPS) {
            const int row = first + r, t = row % T;
            const int64_t at = static_cast<int64_t>(row) * C;
            float dlogit = 0.0f, scale = 0.0f;
            if (t > 0) {
                const float share = gate[row], along = dot_row(dout + at, x + at - C, C, whole);
                dlambda = fmaf(share, along, dlambda);
                dlogit = lambda * along * share * (1.0f - share);
            }
            // The next row exists and mixes this one in; if not, this row stands in for it, and nothing of it is added.
            const bool mixed = t + 1 < T;
            if (mixed) scale = lambda * gate[row + 1];
            const __nv_bfloat16 *d = dout + at, *next = mixed ? d + C : d;
            if (whole) {
#pragma unroll 1
                for (int i = lane * 8; i < C; i += 256) {
                    float f[8], g[8];
                    widen8(f, load8(d + i));
                    widen8(g, load8(next + i));
#pragma unroll
                    for (int j = 0; j < 8; ++j) f[j] = gathered(f[j], mixed ? g[j] : 0.0f, scale, dlogit, w, i + j, G);
                    store8(dx + at + i, narrow8(f));
                }
            } else {
#pragma unroll 1
                for (int i = lane; i < C; i += 32) {
                    const float f = mixed ? __bfloat162float(next[i]) : 0.0f;
                    dx[at + i] = __float2bfloat16_rn(gathered(__bfloat162float(d[i]), f, scale, dlogit, w, i, G));
                }
            }
            if (lane == 0) dlogits[r] = dlogit;
        }
        // What follows reads the rows of its own warp only.
        __syncwarp();
        // 32 channels at a time: each warp adds up its rows, then the first warp the warps' sums in order.
#pragma unroll 1
        for (int channel = lane; channel - lane < G; channel += 32) {
            float sum = 0.0f;
            if (channel < G) {
#pragma unroll 4
                for (int r = warp; r < here; r += WARPS)
                    sum = fmaf(dlogits[r], __bfloat162float(x[static_cast<int64_t>(first + r) * C + channel]), sum);
            }
            shares[warp][lane] = sum;
            __syncthreads();
            if (warp == 0 && channel < G) {
                float total = first == begin ? 0.0f : partials[channel];
#pragma unroll
                for (int i = 0; i < WARPS; ++i) total += shares[i][lane];
                partials[channel] = total;
            }
            __syncthreads();
        }
    }
    if (lane == 0) shares[warp][0] = dlambda;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) total += shares[i][0];
        partials[G] = total;
    }
}

// dw[g] += the sum of the blocks' shares, and dlambda likewise, in an order that depends on `blocks` alone. One block for each sum, G + 1 in all.
// Reads 4 bytes for each share.
extern "C" __global__ void __launch_bounds__(THREADS)
smear_sums(float* __restrict__ dw, float* __restrict__ dlambda, const float* __restrict__ partials, int blocks, int G) {
    __shared__ float scratch[WARPS];
    const int i = blockIdx.x;
    float sum = 0.0f;
#pragma unroll 1
    for (int block = threadIdx.x; block < blocks; block += THREADS) sum += partials[static_cast<int64_t>(block) * (G + 1) + i];
    sum = block_sum<THREADS>(sum, scratch);
    float* out = i < G ? dw + i : dlambda;
    if (threadIdx.x == 0) *out += sum;
}
