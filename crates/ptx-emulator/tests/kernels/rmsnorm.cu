// y = x / sqrt(mean(x^2) + eps) over rows of C bf16 values, three ways: a warp for each row with 16-byte accesses, a
// block for each row with a reduction through shared memory, and a deliberately strided one.
// Each reads 4 rows C bytes of global memory (x twice) and writes 2 rows C. The first two touch no sector in vain if C is
// a multiple of 16 (fully coalesced); the third moves 16 times as much.
#include <cuda_bf16.h>
#include <stdint.h>

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

__device__ __forceinline__ float squares(uint4 v) {
    const __nv_bfloat162* h = reinterpret_cast<const __nv_bfloat162*>(&v);
    float s = 0.f;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 f = __bfloat1622float2(h[j]);
        s = fmaf(f.x, f.x, s);
        s = fmaf(f.y, f.y, s);
    }
    return s;
}

__device__ __forceinline__ uint4 scaled(uint4 v, float r) {
    __nv_bfloat162* h = reinterpret_cast<__nv_bfloat162*>(&v);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 f = __bfloat1622float2(h[j]);
        h[j] = __floats2bfloat162_rn(f.x * r, f.y * r);
    }
    return v;
}

extern "C" __global__ void __launch_bounds__(128) rmsnorm_warp(uint4* __restrict__ y, const uint4* __restrict__ x, int rows, int C, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, n = C / 8;
    if (row >= rows) return;
    float s = 0.f;
    for (int i = lane; i < n; i += 32) s += squares(x[(size_t)row * n + i]);
    float r = rsqrtf(warp_sum(s) / C + eps);
    for (int i = lane; i < n; i += 32) y[(size_t)row * n + i] = scaled(x[(size_t)row * n + i], r);
}

extern "C" __global__ void __launch_bounds__(128) rmsnorm_block(uint4* __restrict__ y, const uint4* __restrict__ x, int rows, int C, float eps) {
    __shared__ float partial[4];
    __shared__ float scale;
    int row = blockIdx.x, n = C / 8;
    float s = 0.f;
    for (int i = threadIdx.x; i < n; i += 128) s += squares(x[(size_t)row * n + i]);
    s = warp_sum(s);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x == 0) scale = rsqrtf((partial[0] + partial[1] + partial[2] + partial[3]) / C + eps);
    __syncthreads();
    float r = scale;
    for (int i = threadIdx.x; i < n; i += 128) y[(size_t)row * n + i] = scaled(x[(size_t)row * n + i], r);
}

// Each lane takes a contiguous piece of the row, so that a warp's loads are far apart.
extern "C" __global__ void __launch_bounds__(128) rmsnorm_strided(__nv_bfloat16* __restrict__ y, const __nv_bfloat16* __restrict__ x, int rows, int C, float eps) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, piece = C / 32;
    if (row >= rows) return;
    size_t base = (size_t)row * C + lane * piece;
    float s = 0.f;
    for (int i = 0; i < piece; i++) {
        float f = __bfloat162float(x[base + i]);
        s = fmaf(f, f, s);
    }
    float r = rsqrtf(warp_sum(s) / C + eps);
    for (int i = 0; i < piece; i++) y[base + i] = __float2bfloat16_rn(__bfloat162float(x[base + i]) * r);
}
