// Rotary embedding, RMS norm over the head dim and a gain, in place, and the gradient: x (B, T, H, D) bf16, rstd (B, T, H), cos and sin
// (T, D/2) f32, with halves x1, x2 of a head:
//
//   y1 = x1 cos + x2 sin, y2 = x2 cos - x1 sin, rstd = 1 / sqrt(mean(y^2) + 2^-23), x = gain rstd y
//
// The arithmetic is f32, results are rounded once. Sums of products are spelled as fma: a product left to be fused or not would round as the
// assembler pleases. Head dims 16, 32, 64, ... 512 in 16-byte accesses, others by one warp for a head. A
// group of D/16 lanes (or a warp) takes a head; the groups of a warp take every GROUPS-th head of one position, so that an angle is
// loaded once for several heads.
//
// Bytes: 4 D for each head (x read and written), 4 for rstd, and 4 D for the angles of each position. Backward: 6 D (y read too), 4, 4 D.
#include "common.cuh"
#include "groups.cuh"

constexpr int WARPS = THREADS / 32;
// As in the definition: 2^-23.
constexpr float EPS = 1.1920929e-7f;

// (a, b) rotated by the angle of this cosine and sine.
__device__ __forceinline__ float rotated_low(float a, float b, float c, float s) { return fmaf(a, c, b * s); }
__device__ __forceinline__ float rotated_high(float a, float b, float c, float s) { return fmaf(b, c, -(a * s)); }

__device__ __forceinline__ void load_angles(float (&to)[8], const float* from) {
    const float4 low = load4(from), high = load4(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
}

// What a lane works on: a position, its first head, and eight columns of each half from `column`.
struct Share {
    int lanes, groups, head, column;
    int64_t position;
    __device__ __forceinline__ Share(int D) {
        const int lane = threadIdx.x % 32;
        lanes = D / 16;
        groups = 32 / lanes;
        head = lane / lanes;
        column = lane % lanes * 8;
        position = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    }
};

// x, cos and sin 16-byte aligned, D a power of two from 16 to 512. One warp for each of B T positions.
extern "C" __global__ void __launch_bounds__(THREADS) rotary_norm(
    __nv_bfloat16* __restrict__ x, float* __restrict__ rstd, const float* __restrict__ cos, const float* __restrict__ sin,
    int64_t positions, int T, int H, int D, float gain) {
    const Share own(D);
    if (own.position >= positions) return;
    float c[8], s[8];
    const int64_t angle = own.position % T * (D / 2) + own.column;
    load_angles(c, cos + angle);
    load_angles(s, sin + angle);
#pragma unroll 1
    for (int first = 0; first < H; first += own.groups) {
        // Lanes without a head stay for the sum.
        const int head = first + own.head;
        const int64_t row = own.position * H + head;
        __nv_bfloat16* at = x + row * D + own.column;
        float low[8] = {}, high[8] = {};
        if (head < H) {
            widen8(low, load8(at));
            widen8(high, load8(at + D / 2));
        }
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float a = low[i], b = high[i];
            low[i] = rotated_low(a, b, c[i], s[i]);
            high[i] = rotated_high(a, b, c[i], s[i]);
            squares = fmaf(high[i], high[i], fmaf(low[i], low[i], squares));
        }
        const float r = 1.0f / sqrtf(group_sum(squares, own.lanes) / D + EPS);
        if (head < H) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                low[i] *= gain * r;
                high[i] *= gain * r;
            }
            store8(at, narrow8(low));
            store8(at + D / 2, narrow8(high));
            if (own.column == 0) rstd[row] = r;
        }
    }
}

// dx holds the gradient by the result on entry and by x on exit; y is the result. As rotary_norm, y 16-byte aligned too.
extern "C" __global__ void __launch_bounds__(THREADS) rotary_norm_backward(
    __nv_bfloat16* __restrict__ dx, const __nv_bfloat16* __restrict__ y, const float* __restrict__ rstd, const float* __restrict__ cos,
    const float* __restrict__ sin, int64_t positions, int T, int H, int D, float gain) {
    const Share own(D);
    if (own.position >= positions) return;
    float c[8], s[8];
    const int64_t angle = own.position % T * (D / 2) + own.column;
    load_angles(c, cos + angle);
    load_angles(s, sin + angle);
#pragma unroll 1
    for (int first = 0; first < H; first += own.groups) {
        const int head = first + own.head;
        const int64_t row = own.position * H + head;
        const int64_t offset = row * D + own.column;
        float low[8] = {}, high[8] = {}, y_low[8] = {}, y_high[8] = {}, scale = 0.0f;
        if (head < H) {
            widen8(low, load8(dx + offset));
            widen8(high, load8(dx + offset + D / 2));
            widen8(y_low, load8(y + offset));
            widen8(y_high, load8(y + offset + D / 2));
            scale = gain * rstd[row];
        }
        float along = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) along = fmaf(high[i], y_high[i], fmaf(low[i], y_low[i], along));
        // y = gain norm, and the norm's gradient is rstd (dnorm - norm mean(dnorm norm)).
        along = group_sum(along, own.lanes) / (D * gain * gain);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float a = scale * fmaf(-y_low[i], along, low[i]), b = scale * fmaf(-y_high[i], along, high[i]);
            // The angle the other way: the transpose.
            low[i] = rotated_low(a, b, c[i], -s[i]);
            high[i] = rotated_high(a, b, c[i], -s[i]);
        }
        if (head < H) {
            store8(dx + offset, narrow8(low));
            store8(dx + offset + D / 2, narrow8(high));
        }
    }
}

// As rotary_norm for any even D and any views: one warp for each of B T H heads, which reads x twice.
extern "C" __global__ void __launch_bounds__(THREADS) rotary_norm_plain(
    __nv_bfloat16* __restrict__ x, float* __restrict__ rstd, const float* __restrict__ cos, const float* __restrict__ sin,
    int64_t rows, int T, int H, int D, float gain) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    const int lane = threadIdx.x % 32, half = D / 2;
    x += row * D;
    cos += row / H % T * half;
    sin += row / H % T * half;
    float squares = 0.0f;
#pragma unroll 1
    for (int i = lane; i < half; i += 32) {
        const float a = __bfloat162float(x[i]), b = __bfloat162float(x[half + i]);
        const float low = rotated_low(a, b, cos[i], sin[i]), high = rotated_high(a, b, cos[i], sin[i]);
        squares = fmaf(high, high, fmaf(low, low, squares));
    }
    const float r = 1.0f / sqrtf(warp_sum(squares) / D + EPS);
#pragma unroll 1
    for (int i = lane; i < half; i += 32) {
        const float a = __bfloat162float(x[i]), b = __bfloat162float(x[half + i]);
        x[i] = __float2bfloat16_rn(rotated_low(a, b, cos[i], sin[i]) * (gain * r));
        x[half + i] = __float2bfloat16_rn(rotated_high(a, b, cos[i], sin[i]) * (gain * r));
    }
    if (lane == 0) rstd[row] = r;
}

// As rotary_norm_backward for any even D and any views: one warp for each head, which reads dx and y twice.
extern "C" __global__ void __launch_bounds__(THREADS) rotary_norm_backward_plain(
    __nv_bfloat16* __restrict__ dx, const __nv_bfloat16* __restrict__ y, const float* __restrict__ rstd, const float* __restrict__ cos,
    const float* __restrict__ sin, int64_t rows, int T, int H, int D, float gain) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    const int lane = threadIdx.x % 32, half = D / 2;
    dx += row * D;
    y += row * D;
    cos += row / H % T * half;
    sin += row / H % T * half;
    float along = 0.0f;
#pragma unroll 1
    for (int i = lane; i < D; i += 32) along = fmaf(__bfloat162float(dx[i]), __bfloat162float(y[i]), along);
    along = warp_sum(along) / (D * gain * gain);
    const float scale = gain * rstd[row];
#pragma unroll 1
    for (int i = lane; i < half; i += 32) {
        const float a = scale * fmaf(-__bfloat162float(y[i]), along, __bfloat162float(dx[i]));
        const float b = scale * fmaf(-__bfloat162float(y[half + i]), along, __bfloat162float(dx[half + i]));
        dx[i] = __float2bfloat16_rn(rotated_low(a, b, cos[i], -sin[i]));
        dx[half + i] = __float2bfloat16_rn(rotated_high(a, b, cos[i], -sin[i]));
    }
}
