// Elementwise kernels: one float per lane, and eight bf16 values per lane with 16-byte accesses.
#include <cuda_bf16.h>
#include <stdint.h>

extern "C" __global__ void scaled_relu2(float* __restrict__ y, const float* __restrict__ x, float scale, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float r = fmaxf(x[i], 0.f);
        y[i] = fmaf(scale * r, r, y[i]);
    }
}

extern "C" __global__ void relu2_bf16(uint4* __restrict__ y, const uint4* __restrict__ x, int n8) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n8) return;
    uint4 v = x[i];
    __nv_bfloat162* h = reinterpret_cast<__nv_bfloat162*>(&v);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float2 f = __bfloat1622float2(h[j]);
        f.x = fmaxf(f.x, 0.f);
        f.y = fmaxf(f.y, 0.f);
        h[j] = __floats2bfloat162_rn(f.x * f.x, f.y * f.y);
    }
    y[i] = v;
}
