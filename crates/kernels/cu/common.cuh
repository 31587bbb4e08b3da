// What the kernels share: 16-byte accesses, conversions between f32 and bf16, sums over a warp and a block in a fixed order.
//
// A kernel is `extern "C"` and its helpers are `__device__ __forceinline__`: `cargo xtask ptx` refuses a mangled kernel, a call that was
// not inlined, and names that carry a hash of the source's path (anonymous namespaces, file-scope statics).
#pragma once

#include <cstdint>
#include <cuda_bf16.h>

// Threads of a block in kernels that walk through memory element by element.
constexpr int THREADS = 256;

// Whether a 16-byte access may start at p: a view may begin in the middle of a tensor.
__device__ __forceinline__ bool aligned16(const void* p) {
    return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

// This thread's number in the grid, and the number of threads in the grid: a grid-stride loop's start and step.
__device__ __forceinline__ int64_t grid_thread() {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t grid_threads() {
    return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// Eight bf16 as one 16-byte access moves them; pair[i] holds elements 2i (.x) and 2i + 1 (.y).
struct alignas(16) Bf16x8 {
    __nv_bfloat162 pair[4];
};

// p must be 16-byte aligned in the four functions below.
__device__ __forceinline__ Bf16x8 load8(const __nv_bfloat16* p) {
    Bf16x8 v;
    *reinterpret_cast<uint4*>(&v) = *reinterpret_cast<const uint4*>(p);
    return v;
}
__device__ __forceinline__ void store8(__nv_bfloat16* p, const Bf16x8& v) {
    *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&v);
}
__device__ __forceinline__ float4 load4(const float* p) {
    return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void store4(float* p, float4 v) {
    *reinterpret_cast<float4*>(p) = v;
}

// Exact.
__device__ __forceinline__ void widen8(float (&out)[8], const Bf16x8& v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 f = __bfloat1622float2(v.pair[i]);
        out[2 * i] = f.x;
        out[2 * i + 1] = f.y;
    }
}

// Round to nearest, ties to even; every NaN becomes 0x7fff.
__device__ __forceinline__ Bf16x8 narrow8(const float (&x)[8]) {
    Bf16x8 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) v.pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return v;
}

// The sum (maximum) of x over the warp, the same bits in every lane: a butterfly, lanes 16 apart first. All 32 lanes call it.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart >>= 1) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int apart = 16; apart > 0; apart >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart));
    return x;
}

// The sum of x over a block of BLOCK threads, the same bits in every thread: each warp's sum, then the warps' sums by the same butterfly.
// All threads call it. `scratch` is BLOCK / 32 floats of shared memory, free for other use once the block has passed another barrier.
template <int BLOCK>
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    static_assert(BLOCK % 32 == 0 && BLOCK <= 1024, "whole warps, at most 32 of them");
    const int lane = threadIdx.x % 32;
    x = warp_sum(x);
    if (lane == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(lane < BLOCK / 32 ? scratch[lane] : 0.0f);
}
