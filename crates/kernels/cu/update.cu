// The update rules on slabs of f32, each element on its own.
//
// One launch of any number of blocks of THREADS threads; n > 0. 16-byte accesses where every pointer is 16-byte aligned, with a scalar
// tail; scalar throughout where a view starts elsewhere.
#include "common.cuh"

// AdamW's numbers for one step, computed on the host in f64.
struct AdamWStep {
    float keep;       // 1 − lr · weight_decay
    float m_weight;   // 1 − β1
    float v_weight;   // 1 − β2
    float step;       // lr / (1 − β1ᵗ)
    float root_scale; // 1 / √(1 − β2ᵗ)
    float eps;

    __device__ __forceinline__ void operator()(float& p, float& m, float& v, float g) const {
        m = fmaf(m_weight, g - m, m);
        v = fmaf(v_weight, fmaf(g, g, -v), v);
        const float root = fmaf(__fsqrt_rn(v), root_scale, eps);
        p = fmaf(-step, __fdiv_rn(m, root), keep * p);
    }
};

// m = lerp(m, g, 1 − β1); v = lerp(v, g², 1 − β2); p = (1 − lr·wd)·p − lr/(1 − β1ᵗ) · m / (√(v/(1 − β2ᵗ)) + eps).
// Moves per element: reads 16 bytes, writes 12.
extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    float* __restrict__ p, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ g, float keep, float m_weight,
    float v_weight, float step, float root_scale, float eps, int64_t n
) {
    const AdamWStep update{keep, m_weight, v_weight, step, root_scale, eps};
    const int64_t whole = aligned16(p) && aligned16(m) && aligned16(v) && aligned16(g) ? n / 4 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float4 p4 = load4(p + i * 4), m4 = load4(m + i * 4), v4 = load4(v + i * 4);
        const float4 g4 = load4(g + i * 4);
        update(p4.x, m4.x, v4.x, g4.x);
        update(p4.y, m4.y, v4.y, g4.y);
        update(p4.z, m4.z, v4.z, g4.z);
        update(p4.w, m4.w, v4.w, g4.w);
        store4(p + i * 4, p4);
        store4(m + i * 4, m4);
        store4(v + i * 4, v4);
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) {
        float p1 = p[i], m1 = m[i], v1 = v[i];
        update(p1, m1, v1, g[i]);
        p[i] = p1;
        m[i] = m1;
        v[i] = v1;
    }
}
