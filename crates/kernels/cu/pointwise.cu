// Operations on n contiguous bf16, each element on its own, and the residual mix's gradient with the sums that its factors need.
//
// One launch of any number of blocks of THREADS threads; n > 0. 16-byte accesses where every pointer is 16-byte aligned, with a scalar
// tail; scalar throughout where a view starts elsewhere. Loops stay rolled: unrolled by an unknown count they begin with a 64-bit
// division, and it is the many threads that keep memory busy.
#include "mix.cuh"

// out = a·x + b·y, a factor being its parameter times a number of the host's, or that number alone where the parameter is null.
// Moves per element: reads 4 bytes, writes 2; and each warp reads each parameter.
extern "C" __global__ void __launch_bounds__(THREADS)
mix(__nv_bfloat16* __restrict__ out, const __nv_bfloat16* __restrict__ x, const float* a_parameter, float a_times,
    const __nv_bfloat16* __restrict__ y, const float* b_parameter, float b_times, int64_t n) {
    const float a = Factor{a_parameter, a_times}.value(), b = Factor{b_parameter, b_times}.value();
    const int64_t whole = aligned16(out) && aligned16(x) && aligned16(y) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads())
        store8(out + i * 8, mixed8(load8(x + i * 8), a, load8(y + i * 8), b));
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads())
        out[i] = __float2bfloat16_rn(mixed(__bfloat162float(x[i]), a, __bfloat162float(y[i]), b));
}

__device__ __forceinline__ float dot8(const float (&d)[8], const Bf16x8& v) {
    float f[8], sum = 0.0f;
    widen8(f, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum = fmaf(d[j], f[j], sum);
    return sum;
}

// The gradient of mix. With d = dx on entry: dx = a·d, dy += b·d; and each block leaves its share of Σ d·x in partials[block] unless x is
// null, and of Σ d·y in partials[blocks + block] unless y is null. add_partials has to follow.
// Moves per element: reads 4 bytes, and 2 for each sum; writes 4.
extern "C" __global__ void __launch_bounds__(THREADS) mix_backward(
    __nv_bfloat16* __restrict__ dx, __nv_bfloat16* __restrict__ dy, const __nv_bfloat16* __restrict__ x, const float* a_parameter,
    float a_times, const __nv_bfloat16* __restrict__ y, const float* b_parameter, float b_times, float* __restrict__ partials, int64_t n
) {
    __shared__ float scratch_x[THREADS / 32], scratch_y[THREADS / 32];
    const float a = Factor{a_parameter, a_times}.value(), b = Factor{b_parameter, b_times}.value();
    // Null is aligned.
    const int64_t whole = aligned16(dx) && aligned16(dy) && aligned16(x) && aligned16(y) ? n / 8 : 0;
    float sum_x = 0.0f, sum_y = 0.0f;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float d[8], e[8];
        widen8(d, load8(dx + i * 8));
        widen8(e, load8(dy + i * 8));
        if (x != nullptr) sum_x += dot8(d, load8(x + i * 8));
        if (y != nullptr) sum_y += dot8(d, load8(y + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            e[j] = fmaf(b, d[j], e[j]);
            d[j] *= a;
        }
        store8(dy + i * 8, narrow8(e));
        store8(dx + i * 8, narrow8(d));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) {
        const float d = __bfloat162float(dx[i]);
        if (x != nullptr) sum_x = fmaf(d, __bfloat162float(x[i]), sum_x);
        if (y != nullptr) sum_y = fmaf(d, __bfloat162float(y[i]), sum_y);
        dy[i] = __float2bfloat16_rn(fmaf(b, d, __bfloat162float(dy[i])));
        dx[i] = __float2bfloat16_rn(a * d);
    }
    if (x != nullptr) {
        sum_x = block_sum<THREADS>(sum_x, scratch_x);
        if (threadIdx.x == 0) partials[blockIdx.x] = sum_x;
    }
    if (y != nullptr) {
        sum_y = block_sum<THREADS>(sum_y, scratch_y);
        if (threadIdx.x == 0) partials[gridDim.x + blockIdx.x] = sum_y;
    }
}

// Two blocks: *first += first_times · Σ partials[0..count], and *second += second_times · Σ partials[count..2·count], in an order that depends on count
// alone. Nothing where the address is null. Reads 4 bytes for each partial sum.
extern "C" __global__ void __launch_bounds__(THREADS)
add_partials(float* first, float first_times, float* second, float second_times, const float* __restrict__ partials, int count) {
    __shared__ float scratch[THREADS / 32];
    float* out = blockIdx.x == 0 ? first : second;
    if (out == nullptr) return;
    const float times = blockIdx.x == 0 ? first_times : second_times;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partials[static_cast<int64_t>(blockIdx.x) * count + i];
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) *out = fmaf(times, sum, *out);
}

// out[i] = f(x[i]) for all i. out may be x.
template <class F>
__device__ __forceinline__ void map1(__nv_bfloat16* out, const __nv_bfloat16* x, int64_t n, F f) {
    const int64_t whole = aligned16(out) && aligned16(x) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float v[8];
        widen8(v, load8(x + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = f(v[j]);
        store8(out + i * 8, narrow8(v));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) out[i] = __float2bfloat16_rn(f(__bfloat162float(x[i])));
}

// out[i] = f(x[i], y[i]) for all i. out may be x.
template <class F>
__device__ __forceinline__ void map2(__nv_bfloat16* out, const __nv_bfloat16* x, const __nv_bfloat16* __restrict__ y, int64_t n, F f) {
    const int64_t whole = aligned16(out) && aligned16(x) && aligned16(y) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float v[8], w[8];
        widen8(v, load8(x + i * 8));
        widen8(w, load8(y + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = f(v[j], w[j]);
        store8(out + i * 8, narrow8(v));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads())
        out[i] = __float2bfloat16_rn(f(__bfloat162float(x[i]), __bfloat162float(y[i])));
}

// y = max(x, 0)². y may be x. Moves per element: reads 2 bytes, writes 2.
extern "C" __global__ void __launch_bounds__(THREADS) relu2(__nv_bfloat16* y, const __nv_bfloat16* x, int64_t n) {
    map1(y, x, n, [](float x) {
        const float r = fmaxf(x, 0.0f);
        return r * r;
    });
}

// dx *= 2·√y, y being relu² of something: √y rounded to bf16 is that something again. Moves per element: reads 4 bytes, writes 2.
extern "C" __global__ void __launch_bounds__(THREADS) relu2_backward(__nv_bfloat16* dx, const __nv_bfloat16* __restrict__ y, int64_t n) {
    map2(dx, dx, y, n, [](float d, float y) { return d * (2.0f * __bfloat162float(__float2bfloat16_rn(__fsqrt_rn(y)))); });
}

// 1/(1 + exp(−x)); 0 where exp overflows.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// y = gate · sigmoid(gate) · x. Moves per element: reads 4 bytes, writes 2.
extern "C" __global__ void __launch_bounds__(THREADS)
swiglu(__nv_bfloat16* __restrict__ y, const __nv_bfloat16* __restrict__ gate, const __nv_bfloat16* __restrict__ x, int64_t n) {
    map2(y, gate, x, n, [](float g, float x) { return g * sigmoid(g) * x; });
}

// The gradient of swiglu. With d = dx on entry and s = sigmoid(gate): dx = gate·s·d, dgate = d·x·s·(1 + gate·(1 − s)).
// Moves per element: reads 6 bytes, writes 4.
extern "C" __global__ void __launch_bounds__(THREADS) swiglu_backward(
    __nv_bfloat16* __restrict__ dx, __nv_bfloat16* __restrict__ dgate, const __nv_bfloat16* __restrict__ gate,
    const __nv_bfloat16* __restrict__ x, int64_t n
) {
    const auto gradients = [](float& d, float& g, float x) {
        const float s = sigmoid(g), dy = d;
        d = dy * (g * s);
        g = dy * x * s * fmaf(g, 1.0f - s, 1.0f);
    };
    const int64_t whole = aligned16(dx) && aligned16(dgate) && aligned16(gate) && aligned16(x) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float d[8], g[8], v[8];
        widen8(d, load8(dx + i * 8));
        widen8(g, load8(gate + i * 8));
        widen8(v, load8(x + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) gradients(d[j], g[j], v[j]);
        store8(dx + i * 8, narrow8(d));
        store8(dgate + i * 8, narrow8(g));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) {
        float d = __bfloat162float(dx[i]), g = __bfloat162float(gate[i]);
        gradients(d, g, __bfloat162float(x[i]));
        dx[i] = __float2bfloat16_rn(d);
        dgate[i] = __float2bfloat16_rn(g);
    }
}
