// RMS normalisation of rows of C bf16, its gradient, and the residual mix fused with it.
//
// A row belongs to a warp (`_warp`, eight rows to a block) or to a block (`_block`); both are right for every width, the warp's is meant
// for rows up to WARP_KEPT · 256 elements and the block's for longer ones. What a row's statistic needs first and its result needs again
// stays in registers up to that width (up to BLOCK_KEPT · 2048 for a block) and is read again beyond it.
//
// 16-byte accesses when C is a multiple of 8 and every pointer is 16-byte aligned, so that each row is; else element by element, twice.
// Sums are f32, in an order that depends on C alone. The bytes stated are those of the first case.
#include "mix.cuh"

// 16-byte pieces of a row that a thread keeps.
constexpr int WARP_KEPT = 8;
constexpr int BLOCK_KEPT = 4;
// Added to the mean square.
constexpr float EPS = 1.1920929e-7f;

// The GROUP threads that share a row, this thread's place among them, and their sums.
template <int GROUP, int KEPT_>
struct Rows {
    static constexpr int KEPT = KEPT_;
    // Elements that the whole group covers with one 16-byte access each.
    static constexpr int STEP = GROUP * 8;

    __device__ __forceinline__ static int lane() { return threadIdx.x % GROUP; }
    __device__ __forceinline__ static int64_t row() {
        return static_cast<int64_t>(blockIdx.x) * (THREADS / GROUP) + threadIdx.x / GROUP;
    }
    // Where this thread's kept piece k starts.
    __device__ __forceinline__ static int piece(int k) { return k * STEP + lane() * 8; }

    __device__ __forceinline__ static float sum(float x, float* scratch) {
        if constexpr (GROUP == 32) {
            return warp_sum(x);
        } else {
            return block_sum<GROUP>(x, scratch);
        }
    }

    // Stores a number per row: a block's eight rows as one 32-byte access. All threads of the block call it; `scratch` holds eight floats
    // that nothing else uses.
    __device__ __forceinline__ static void store(float* out, float value, int64_t n, float* scratch) {
        if constexpr (GROUP == 32) {
            if (lane() == 0) scratch[threadIdx.x / 32] = value;
            __syncthreads();
            const int64_t at = static_cast<int64_t>(blockIdx.x) * (THREADS / 32) + threadIdx.x;
            if (threadIdx.x < THREADS / 32 && at < n) out[at] = scratch[threadIdx.x];
        } else {
            if (threadIdx.x == 0) out[row()] = value;
        }
    }
};
using Warp = Rows<32, WARP_KEPT>;
using Block = Rows<THREADS, BLOCK_KEPT>;

__device__ __forceinline__ float squares(const Bf16x8& v) {
    float f[8], sum = 0.0f;
    widen8(f, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(f[j], f[j], sum);
    return sum;
}

__device__ __forceinline__ Bf16x8 scaled(const Bf16x8& v, float by) {
    float f[8];
    widen8(f, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] *= by;
    return narrow8(f);
}

__device__ __forceinline__ float rsqrt_of_mean(float sum, float inverse_c) {
    return rsqrtf(fmaf(sum, inverse_c, EPS));
}

// One row: y = x · rstd; returns rstd.
template <class R>
__device__ __forceinline__ float
norm_row(__nv_bfloat16* __restrict__ y, const __nv_bfloat16* __restrict__ x, int c, float inverse_c, bool whole, float* scratch) {
    float sum = 0.0f;
    if (whole) {
        Bf16x8 kept[R::KEPT];
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k)
            if (R::piece(k) < c) kept[k] = load8(x + R::piece(k));
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k)
            if (R::piece(k) < c) sum += squares(kept[k]);
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP) sum += squares(load8(x + i));
        const float rstd = rsqrt_of_mean(R::sum(sum, scratch), inverse_c);
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k)
            if (R::piece(k) < c) store8(y + R::piece(k), scaled(kept[k], rstd));
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP) store8(y + i, scaled(load8(x + i), rstd));
        return rstd;
    }
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) {
        const float f = __bfloat162float(x[i]);
        sum = fmaf(f, f, sum);
    }
    const float rstd = rsqrt_of_mean(R::sum(sum, scratch), inverse_c);
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) y[i] = __float2bfloat16_rn(__bfloat162float(x[i]) * rstd);
    return rstd;
}

// y = x · rstd, rstd = 1/√(mean of x² + 2⁻²³). y and x (N, C), rstd (N) f32.
// Moves per row: reads 2·C bytes, writes 2·C + 4.
template <class R>
__device__ __forceinline__ void
norm(__nv_bfloat16* __restrict__ y, float* __restrict__ rstd, const __nv_bfloat16* __restrict__ x, int64_t n, int c, float inverse_c) {
    __shared__ float scratch[THREADS / 32], rows[THREADS / 32];
    const bool whole = c % 8 == 0 && aligned16(y) && aligned16(x);
    const int64_t row = R::row();
    float value = 0.0f;
    if (row < n) value = norm_row<R>(y + row * c, x + row * c, c, inverse_c, whole, scratch);
    R::store(rstd, value, n, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_warp(__nv_bfloat16* y, float* rstd, const __nv_bfloat16* x, int64_t n, int c, float inverse_c) {
    norm<Warp>(y, rstd, x, n, c, inverse_c);
}

extern "C" __global__ void __launch_bounds__(THREADS)
rms_norm_block(__nv_bfloat16* y, float* rstd, const __nv_bfloat16* x, int64_t n, int c, float inverse_c) {
    norm<Block>(y, rstd, x, n, c, inverse_c);
}

// One row: out = a·x + b·y, normed = out · rstd of the rounded out; returns rstd.
template <class R>
__device__ __forceinline__ float mix_norm_row(
    __nv_bfloat16* __restrict__ out, __nv_bfloat16* __restrict__ normed, const __nv_bfloat16* __restrict__ x, float a,
    const __nv_bfloat16* __restrict__ y, float b, int c, float inverse_c, bool whole, float* scratch
) {
    float sum = 0.0f;
    if (whole) {
        Bf16x8 kept[R::KEPT];
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k) {
            if (R::piece(k) < c) {
                kept[k] = mixed8(load8(x + R::piece(k)), a, load8(y + R::piece(k)), b);
                store8(out + R::piece(k), kept[k]);
                sum += squares(kept[k]);
            }
        }
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP) {
            const Bf16x8 v = mixed8(load8(x + i), a, load8(y + i), b);
            store8(out + i, v);
            sum += squares(v);
        }
        const float rstd = rsqrt_of_mean(R::sum(sum, scratch), inverse_c);
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k)
            if (R::piece(k) < c) store8(normed + R::piece(k), scaled(kept[k], rstd));
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP) store8(normed + i, scaled(load8(out + i), rstd));
        return rstd;
    }
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) {
        const __nv_bfloat16 v = __float2bfloat16_rn(mixed(__bfloat162float(x[i]), a, __bfloat162float(y[i]), b));
        out[i] = v;
        const float f = __bfloat162float(v);
        sum = fmaf(f, f, sum);
    }
    const float rstd = rsqrt_of_mean(R::sum(sum, scratch), inverse_c);
    // Each thread reads what it wrote itself.
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) normed[i] = __float2bfloat16_rn(__bfloat162float(out[i]) * rstd);
    return rstd;
}

// out = a·x + b·y and normed = out · rstd in one pass: the residual stream and what the next branch reads. out, normed, x and y (N, C),
// rstd (N) f32. A factor is its parameter times a number of the host's, or that number alone where the parameter is null.
// Moves per row: reads 4·C bytes, writes 4·C + 4; and each warp reads each parameter.
template <class R>
__device__ __forceinline__ void mix_and_norm(
    __nv_bfloat16* __restrict__ out, __nv_bfloat16* __restrict__ normed, float* __restrict__ rstd,
    const __nv_bfloat16* __restrict__ x, Factor a, const __nv_bfloat16* __restrict__ y, Factor b, int64_t n, int c, float inverse_c
) {
    __shared__ float scratch[THREADS / 32], rows[THREADS / 32];
    const bool whole = c % 8 == 0 && aligned16(out) && aligned16(normed) && aligned16(x) && aligned16(y);
    const int64_t row = R::row(), at = row * c;
    float value = 0.0f;
    if (row < n)
        value = mix_norm_row<R>(out + at, normed + at, x + at, a.value(), y + at, b.value(), c, inverse_c, whole, scratch);
    R::store(rstd, value, n, rows);
}

extern "C" __global__ void __launch_bounds__(THREADS) mix_norm_warp(
    __nv_bfloat16* out, __nv_bfloat16* normed, float* rstd, const __nv_bfloat16* x, const float* a, float a_times,
    const __nv_bfloat16* y, const float* b, float b_times, int64_t n, int c, float inverse_c
) {
    mix_and_norm<Warp>(out, normed, rstd, x, Factor{a, a_times}, y, Factor{b, b_times}, n, c, inverse_c);
}

extern "C" __global__ void __launch_bounds__(THREADS) mix_norm_block(
    __nv_bfloat16* out, __nv_bfloat16* normed, float* rstd, const __nv_bfloat16* x, const float* a, float a_times,
    const __nv_bfloat16* y, const float* b, float b_times, int64_t n, int c, float inverse_c
) {
    mix_and_norm<Block>(out, normed, rstd, x, Factor{a, a_times}, y, Factor{b, b_times}, n, c, inverse_c);
}

__device__ __forceinline__ float products(const Bf16x8& u, const Bf16x8& v) {
    float f[8], g[8], sum = 0.0f;
    widen8(f, u);
    widen8(g, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(f[j], g[j], sum);
    return sum;
}

// rstd · (dy − y · mean).
__device__ __forceinline__ float unnormed(float dy, float y, float rstd, float mean) { return rstd * fmaf(-mean, y, dy); }

// Eight elements: stores dx, or adds to it.
__device__ __forceinline__ void
store_unnormed(__nv_bfloat16* dx, const Bf16x8& dy, const Bf16x8& y, float rstd, float mean, bool accumulate) {
    float f[8], g[8];
    widen8(f, dy);
    widen8(g, y);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = unnormed(f[j], g[j], rstd, mean);
    if (accumulate) {
        widen8(g, load8(dx));
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
    }
    store8(dx, narrow8(f));
}

// dx = rstd · (dy − y · mean(dy·y)), or dx += that: the gradient of rms_norm from its result. dx, dy and y (N, C), rstd (N) f32.
// Moves per row: reads 4·C bytes, and 2·C more of dx to add to it, and rstd by each warp; writes 2·C.
template <class R>
__device__ __forceinline__ void norm_backward(
    __nv_bfloat16* __restrict__ dx, const __nv_bfloat16* __restrict__ dy, const __nv_bfloat16* __restrict__ y,
    const float* __restrict__ rstds, int64_t n, int c, float inverse_c, bool accumulate
) {
    __shared__ float scratch[THREADS / 32];
    const bool whole = c % 8 == 0 && aligned16(dx) && aligned16(dy) && aligned16(y);
    const int64_t row = R::row();
    // A warp has its row to itself, and a block has one row: no thread of a group leaves alone.
    if (row >= n) return;
    dx += row * c;
    dy += row * c;
    y += row * c;
    const float rstd = rstds[row];
    float sum = 0.0f;
    if (whole) {
        Bf16x8 kept_dy[R::KEPT], kept_y[R::KEPT];
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k) {
            if (R::piece(k) < c) {
                kept_dy[k] = load8(dy + R::piece(k));
                kept_y[k] = load8(y + R::piece(k));
                sum += products(kept_dy[k], kept_y[k]);
            }
        }
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP) sum += products(load8(dy + i), load8(y + i));
        const float mean = R::sum(sum, scratch) * inverse_c;
#pragma unroll
        for (int k = 0; k < R::KEPT; ++k)
            if (R::piece(k) < c) store_unnormed(dx + R::piece(k), kept_dy[k], kept_y[k], rstd, mean, accumulate);
#pragma unroll 1
        for (int i = R::piece(R::KEPT); i < c; i += R::STEP)
            store_unnormed(dx + i, load8(dy + i), load8(y + i), rstd, mean, accumulate);
        return;
    }
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) sum = fmaf(__bfloat162float(dy[i]), __bfloat162float(y[i]), sum);
    const float mean = R::sum(sum, scratch) * inverse_c;
#pragma unroll 1
    for (int i = R::lane(); i < c; i += R::STEP / 8) {
        const float f = unnormed(__bfloat162float(dy[i]), __bfloat162float(y[i]), rstd, mean);
        dx[i] = __float2bfloat16_rn(accumulate ? f + __bfloat162float(dx[i]) : f);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) rms_norm_backward_warp(
    __nv_bfloat16* dx, const __nv_bfloat16* dy, const __nv_bfloat16* y, const float* rstd, int64_t n, int c, float inverse_c,
    uint32_t accumulate
) {
    norm_backward<Warp>(dx, dy, y, rstd, n, c, inverse_c, accumulate != 0);
}

extern "C" __global__ void __launch_bounds__(THREADS) rms_norm_backward_block(
    __nv_bfloat16* dx, const __nv_bfloat16* dy, const __nv_bfloat16* y, const float* rstd, int64_t n, int c, float inverse_c,
    uint32_t accumulate
) {
    norm_backward<Block>(dx, dy, y, rstd, n, c, inverse_c, accumulate != 0);
}
