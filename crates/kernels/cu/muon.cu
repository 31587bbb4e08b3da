// The steps of Muon that are not matrix products, on K matrices of R rows and S columns in f32.
//
// What needs a sum over a row, a column or a matrix is several launches: sums of squares first (one block to a row, or to 32 columns, so that
// their order never depends on the machine), then what uses them. Rows are 16-byte aligned where S is a multiple of 4 and the view starts so.
#include "common.cuh"

__device__ __forceinline__ float lerp(float a, float b, float w) { return fmaf(w, b - a, a); }

// buf = lerp(buf, g, 1 − momentum), out = lerp(g, buf, momentum). Moves 16·n bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
nesterov(float* __restrict__ out, float* __restrict__ buf, const float* __restrict__ g, float momentum, float complement, int64_t n) {
    const int64_t whole = aligned16(out) && aligned16(buf) && aligned16(g) ? n / 4 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float4 b = load4(buf + i * 4);
        const float4 d = load4(g + i * 4);
        b = make_float4(lerp(b.x, d.x, complement), lerp(b.y, d.y, complement), lerp(b.z, d.z, complement), lerp(b.w, d.w, complement));
        store4(buf + i * 4, b);
        store4(out + i * 4, make_float4(lerp(d.x, b.x, momentum), lerp(d.y, b.y, momentum), lerp(d.z, b.z, momentum), lerp(d.w, b.w, momentum)));
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) {
        const float b = lerp(buf[i], g[i], complement);
        buf[i] = b;
        out[i] = lerp(g[i], b, momentum);
    }
}

// p −= lr·x, and lr·wd·p where x·p ≥ 0. By signs, because a product of small numbers may round to 0.
__device__ __forceinline__ float cautious(float p, float x, float lr, float decay) {
    const bool agree = (x >= 0.0f && p >= 0.0f) || (x <= 0.0f && p <= 0.0f);
    return p - fmaf(lr, x, agree ? decay * p : 0.0f);
}

// Moves 12·n bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
cautious_update(float* __restrict__ p, const float* __restrict__ x, float lr, float decay, int64_t n) {
    const int64_t whole = aligned16(p) && aligned16(x) ? n / 4 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const float4 a = load4(p + i * 4), b = load4(x + i * 4);
        store4(p + i * 4, make_float4(cautious(a.x, b.x, lr, decay), cautious(a.y, b.y, lr, decay), cautious(a.z, b.z, lr, decay),
                                      cautious(a.w, b.w, lr, decay)));
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) p[i] = cautious(p[i], x[i], lr, decay);
}

// The sum of f(x)² over a row of `columns`, in every thread of its block.
template <class F>
__device__ __forceinline__ float row_sum_squares(const float* row, int64_t columns, float* scratch, F f) {
    const int64_t whole = aligned16(row) ? columns / 4 : 0;
    float sum = 0.0f;
    const auto add = [&](float x) { sum = fmaf(f(x), f(x), sum); };
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < whole; i += THREADS) {
        const float4 v = load4(row + i * 4);
        add(v.x), add(v.y), add(v.z), add(v.w);
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + threadIdx.x; i < columns; i += THREADS) add(row[i]);
    return block_sum<THREADS>(sum, scratch);
}

// row = factor · row, for one block.
__device__ __forceinline__ void scale_row(float* row, int64_t columns, float factor) {
    const int64_t whole = aligned16(row) ? columns / 4 : 0;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < whole; i += THREADS) {
        const float4 v = load4(row + i * 4);
        store4(row + i * 4, make_float4(factor * v.x, factor * v.y, factor * v.z, factor * v.w));
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + threadIdx.x; i < columns; i += THREADS) row[i] *= factor;
}

// The sum of values[0..n], in every thread of a block.
__device__ __forceinline__ float sum_of(const float* values, int64_t n, float* scratch) {
    float sum = 0.0f;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += values[i];
    return block_sum<THREADS>(sum, scratch);
}

// sums[row] = Σ x² over the row. One block to a row. Reads 4 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS) row_squares(float* __restrict__ sums, const float* __restrict__ x, int64_t columns) {
    __shared__ float scratch[THREADS / 32];
    const float sum = row_sum_squares(x + blockIdx.x * columns, columns, scratch, [](float v) { return v; });
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// As row_squares, of x rounded to bf16.
extern "C" __global__ void __launch_bounds__(THREADS) row_squares_bf16(float* __restrict__ sums, const float* __restrict__ x, int64_t columns) {
    __shared__ float scratch[THREADS / 32];
    const float sum = row_sum_squares(x + blockIdx.x * columns, columns, scratch, [](float v) { return __bfloat162float(__float2bfloat16_rn(v)); });
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// sums[matrix, column] = Σ x² over the column. One block to 32 columns of a matrix: a warp to every 8th row, then the warps' sums in order.
// Reads 4 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
column_squares(float* __restrict__ sums, const float* __restrict__ x, int64_t rows, int64_t columns) {
    constexpr int WARPS = THREADS / 32;
    __shared__ float parts[WARPS][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t strips = (columns + 31) / 32;
    const int64_t matrix = blockIdx.x / strips, column = blockIdx.x % strips * 32 + lane;
    float sum = 0.0f;
    if (column < columns) {
        const float* first = x + matrix * rows * columns + column;
#pragma unroll 1
        for (int64_t r = warp; r < rows; r += WARPS) sum = fmaf(first[r * columns], first[r * columns], sum);
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns) return;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) sum += parts[w][lane];
    sums[matrix * columns + column] = sum;
}

// Each row of x (K, R, S) to norm ‖x‖_F/√R of its matrix, the row's own norm clamped to at least 1e-6; `sums` from row_squares. One block to a
// row. Moves 8 bytes an element, and R sums a row from cache.
extern "C" __global__ void __launch_bounds__(THREADS)
equilibrate_rows(float* __restrict__ x, const float* __restrict__ sums, int64_t rows, int64_t columns) {
    __shared__ float scratch[THREADS / 32];
    const int64_t matrix = blockIdx.x / rows;
    const float total = sum_of(sums + matrix * rows, rows, scratch);
    const float target = sqrtf(total / static_cast<float>(rows));
    scale_row(x + blockIdx.x * columns, columns, target / fmaxf(sqrtf(sums[blockIdx.x]), 1e-6f));
}

// Each matrix of x to norm `target`, its own norm clamped to at least 1e-6; otherwise as equilibrate_rows.
extern "C" __global__ void __launch_bounds__(THREADS)
renormalize(float* __restrict__ x, const float* __restrict__ sums, int64_t rows, int64_t columns, float target) {
    __shared__ float scratch[THREADS / 32];
    const int64_t matrix = blockIdx.x / rows;
    const float norm = sqrtf(sum_of(sums + matrix * rows, rows, scratch));
    scale_row(x + blockIdx.x * columns, columns, target / fmaxf(norm, 1e-6f));
}

// NorMuon's variances: v = sums/n for each of a matrix's `groups`, s = lerp(s, v, 1 − β2), w = max(s, 1e-10)^−½; scales[matrix] =
// √(n·Σv) / max(√(n·Σ(v·w²)), 1e-10). One block to a matrix; `sums` from row_squares or column_squares.
extern "C" __global__ void __launch_bounds__(THREADS)
variance_moments(float* __restrict__ s, float* __restrict__ scales, const float* __restrict__ sums, int64_t groups, float n, float complement) {
    __shared__ float scratch_before[THREADS / 32], scratch_after[THREADS / 32];
    const int64_t first = blockIdx.x * groups;
    float before = 0.0f, after = 0.0f;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < groups; i += THREADS) {
        const float v = sums[first + i] / n;
        const float moment = lerp(s[first + i], v, complement);
        s[first + i] = moment;
        before += v;
        after += v / fmaxf(moment, 1e-10f);
    }
    before = block_sum<THREADS>(before, scratch_before);
    after = block_sum<THREADS>(after, scratch_after);
    if (threadIdx.x == 0) scales[blockIdx.x] = sqrtf(n * before) / fmaxf(sqrtf(n * after), 1e-10f);
}

// x *= max(s, 1e-10)^−½ · scale, s of the element's row. One block to a row. Moves 8 bytes an element.
extern "C" __global__ void __launch_bounds__(THREADS)
variance_scale_rows(float* __restrict__ x, const float* __restrict__ s, const float* __restrict__ scales, int64_t rows, int64_t columns) {
    scale_row(x + blockIdx.x * columns, columns, rsqrtf(fmaxf(s[blockIdx.x], 1e-10f)) * scales[blockIdx.x / rows]);
}

// x *= max(s, 1e-10)^−½ · scale, s of the element's column. One block to a row. Moves 8 bytes an element, and s from cache.
extern "C" __global__ void __launch_bounds__(THREADS)
variance_scale_columns(float* __restrict__ x, const float* __restrict__ s, const float* __restrict__ scales, int64_t rows, int64_t columns) {
    float* row = x + blockIdx.x * columns;
    const int64_t matrix = blockIdx.x / rows;
    const float scale = scales[matrix];
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < columns; i += THREADS) row[i] *= rsqrtf(fmaxf(s[matrix * columns + i], 1e-10f)) * scale;
}

// out = bf16(bf16(x) / (norm · safety + 1e-6)) for one matrix, norm² = Σ sums, from row_squares_bf16. One block to a row. Moves 6 bytes an
// element, and the matrix's sums a row from cache.
extern "C" __global__ void __launch_bounds__(THREADS)
polar_start(__nv_bfloat16* __restrict__ out, const float* __restrict__ x, const float* __restrict__ sums, int64_t columns, float safety) {
    __shared__ float scratch[THREADS / 32];
    const float scale = 1.0f / fmaf(sqrtf(sum_of(sums, gridDim.x, scratch)), safety, 1e-6f);
    const float* from = x + blockIdx.x * columns;
    __nv_bfloat16* to = out + blockIdx.x * columns;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < columns; i += THREADS)
        to[i] = __float2bfloat16_rn(scale * __bfloat162float(__float2bfloat16_rn(from[i])));
}

// y = bf16(a·x + b·y), elementwise. Moves 6·n bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
polar_combine(__nv_bfloat16* __restrict__ y, const __nv_bfloat16* __restrict__ x, float a, float b, int64_t n) {
    const int64_t whole = aligned16(y) && aligned16(x) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float u[8], v[8];
        widen8(u, load8(x + i * 8));
        widen8(v, load8(y + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = fmaf(a, u[j], b * v[j]);
        store8(y + i * 8, narrow8(v));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads())
        y[i] = __float2bfloat16_rn(fmaf(a, __bfloat162float(x[i]), b * __bfloat162float(y[i])));
}
