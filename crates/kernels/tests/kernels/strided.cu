// rms_norm as it should not be written: each lane takes C/32 elements that lie together, so that a warp's access is spread over 32 sectors.
// For the test that counters show it. Made into strided.ptx by: nvcc -std=c++17 -O3 -arch=compute_80 -ptx strided.cu
#include <cuda_bf16.h>

extern "C" __global__ void __launch_bounds__(256)
rms_norm_strided(__nv_bfloat16* y, float* rstd, const __nv_bfloat16* x, long long n, int c, float inverse_c) {
    const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
    if (row >= n) return;
    const int lane = threadIdx.x % 32, each = c / 32;
    x += row * c + lane * each;
    y += row * c + lane * each;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < each; ++i) sum += __bfloat162float(x[i]) * __bfloat162float(x[i]);
#pragma unroll
    for (int apart = 16; apart > 0; apart >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    const float scale = rsqrtf(sum * inverse_c + 1.1920929e-7f);
#pragma unroll 1
    for (int i = 0; i < each; ++i) y[i] = __float2bfloat16_rn(__bfloat162float(x[i]) * scale);
    if (lane == 0) rstd[row] = scale;
}
