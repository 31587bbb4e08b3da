// A warp cut into aligned groups of lanes, each of which works on one head.
#pragma once

// The sum over a group of `lanes` lanes, a power of two up to 32, in each of them; all 32 lanes call it. The order is fixed.
__device__ __forceinline__ float group_sum(float x, int lanes) {
#pragma unroll 1
    for (int apart = lanes / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}
