// a·x + b·y, as `mix` and `mix_norm` both compute it, to the same bits.
#pragma once

#include "common.cuh"

// A number of the host's times, unless null, a parameter on the device.
struct Factor {
    const float* parameter;
    float times;

    __device__ __forceinline__ float value() const { return parameter == nullptr ? times : *parameter * times; }
};

__device__ __forceinline__ float mixed(float x, float a, float y, float b) { return fmaf(a, x, b * y); }

__device__ __forceinline__ Bf16x8 mixed8(const Bf16x8& x, float a, const Bf16x8& y, float b) {
    float f[8], g[8];
    widen8(f, x);
    widen8(g, y);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = mixed(f[j], a, g[j], b);
    return narrow8(f);
}
