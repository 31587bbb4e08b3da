// Softcapped cross-entropy with its gradient in place, argmax, and sums of f32.
//
// Rows are walked by one block each. A row begins where the last one ended, so that only some rows of an odd width are 16-byte aligned:
// each is cut into a scalar head up to the next 16 bytes, 16-byte chunks, and a scalar tail.
#include "common.cuh"

constexpr int ROW_THREADS = 512;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// cap · tanh(x / cap), given two_over_cap = 2·log2(e) / cap: tanh(y) = 1 − 2 / (e^2y + 1). Within 1e-6 · cap; ±cap where x is infinite.
__device__ __forceinline__ float softcapped(float x, float cap, float two_over_cap) {
    return cap * (1.0f - __fdividef(2.0f, exp2f(fminf(x * two_over_cap, 126.0f)) + 1.0f));
}

// The elements of a row before its first 16-byte boundary, at most n.
__device__ __forceinline__ int64_t head_of(const __nv_bfloat16* row, int64_t n) {
    const int64_t head = ((16 - (reinterpret_cast<uintptr_t>(row) & 15)) & 15) / sizeof(*row);
    return head < n ? head : n;
}

// f(column, value) for this thread's part of columns 0..n, in ascending order.
template <class F>
__device__ __forceinline__ void each_column(const __nv_bfloat16* row, int64_t n, F f) {
    const int64_t head = head_of(row, n);
    const int64_t chunks = (n - head) / 8;
    if (threadIdx.x < head) f(static_cast<int64_t>(threadIdx.x), __bfloat162float(row[threadIdx.x]));
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < chunks; i += ROW_THREADS) {
        float x[8];
        widen8(x, load8(row + head + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) f(head + i * 8 + j, x[j]);
    }
    const int64_t tail = head + chunks * 8 + threadIdx.x;
    if (tail < n) f(tail, __bfloat162float(row[tail]));
}

// row[column] = f(column, value) for this thread's part of columns 0..n.
template <class F>
__device__ __forceinline__ void replace_columns(__nv_bfloat16* row, int64_t n, F f) {
    const int64_t head = head_of(row, n);
    const int64_t chunks = (n - head) / 8;
    if (threadIdx.x < head)
        row[threadIdx.x] = __float2bfloat16_rn(f(static_cast<int64_t>(threadIdx.x), __bfloat162float(row[threadIdx.x])));
#pragma unroll 1
    for (int64_t i = threadIdx.x; i < chunks; i += ROW_THREADS) {
        float x[8];
        widen8(x, load8(row + head + i * 8));
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] = f(head + i * 8 + j, x[j]);
        store8(row + head + i * 8, narrow8(x));
    }
    const int64_t tail = head + chunks * 8 + threadIdx.x;
    if (tail < n) row[tail] = __float2bfloat16_rn(f(tail, __bfloat162float(row[tail])));
}

// log2 of the sum over the first `vocab` columns of 2^(z·log2 e), in every thread, by a running maximum.
__device__ __forceinline__ float log2_sum(const __nv_bfloat16* row, int32_t vocab, float cap, float two_over_cap) {
    float most = -INFINITY, sum = 0.0f;
    each_column(row, vocab, [&](int64_t, float x) {
        const float z = softcapped(x, cap, two_over_cap) * LOG2E;
        if (z > most) {
            sum *= exp2f(most - z);
            most = z;
        }
        sum += exp2f(z - most);
    });
    // A thread without a column has sum 0 and must not turn 0 · 2^(−∞ − −∞) into NaN.
    __shared__ float maxima[ROW_THREADS / 32], sums[ROW_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float warp_most = warp_max(most);
    if (lane == 0) maxima[warp] = warp_most;
    __syncthreads();
    const float row_most = warp_max(lane < ROW_THREADS / 32 ? maxima[lane] : -INFINITY);
    sum = block_sum<ROW_THREADS>(sum == 0.0f ? 0.0f : sum * exp2f(most - row_most), sums);
    return row_most + log2f(sum);
}

// The loss of a row: 0 where its target is −1, NaN where the target is no column of the vocabulary (a kernel cannot refuse).
__device__ __forceinline__ float row_loss(const __nv_bfloat16* row, int32_t target, int32_t vocab, float cap, float two_over_cap, float lse2) {
    if (target == -1) return 0.0f;
    if (target < 0 || target >= vocab) return NAN;
    return LN2 * lse2 - softcapped(__bfloat162float(row[target]), cap, two_over_cap);
}

// losses[n] = log Σ exp z − z[target], z = cap · tanh(logits / cap) over the first `vocab` of `columns` columns, in nats; logits become z, and
// padding columns 0. One block of ROW_THREADS for each row. Reads a row twice (the second time from cache) and writes it once: 2·columns bytes each.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
cross_entropy(float* __restrict__ losses, __nv_bfloat16* __restrict__ logits, const int32_t* __restrict__ targets, int64_t columns, int32_t vocab,
              float cap) {
    __nv_bfloat16* row = logits + blockIdx.x * columns;
    const float two_over_cap = 2.0f * LOG2E / cap;
    const float lse2 = log2_sum(row, vocab, cap, two_over_cap);
    if (threadIdx.x == 0) losses[blockIdx.x] = row_loss(row, targets[blockIdx.x], vocab, cap, two_over_cap, lse2);
    __syncthreads();
    replace_columns(row, columns, [&](int64_t column, float x) { return column < vocab ? softcapped(x, cap, two_over_cap) : 0.0f; });
}

// As cross_entropy; logits become g · ∂loss/∂logits = g · (softmax(z) − [column = target]) · (1 − (z / cap)²), 0 in padding columns and in
// rows whose target is −1.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
cross_entropy_gradient(float* __restrict__ losses, __nv_bfloat16* __restrict__ logits, const int32_t* __restrict__ targets, int64_t columns,
                       int32_t vocab, float cap, float g) {
    __nv_bfloat16* row = logits + blockIdx.x * columns;
    const int32_t target = targets[blockIdx.x];
    if (target == -1) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        replace_columns(row, columns, [](int64_t, float) { return 0.0f; });
        return;
    }
    const float two_over_cap = 2.0f * LOG2E / cap;
    const float lse2 = log2_sum(row, vocab, cap, two_over_cap);
    if (threadIdx.x == 0) losses[blockIdx.x] = row_loss(row, target, vocab, cap, two_over_cap, lse2);
    __syncthreads();
    replace_columns(row, columns, [&](int64_t column, float x) {
        if (column >= vocab) return 0.0f;
        const float z = softcapped(x, cap, two_over_cap);
        const float p = exp2f(fmaf(z, LOG2E, -lse2));
        return g * (column == target ? p - 1.0f : p) * fmaf(-z / cap, z / cap, 1.0f);
    });
}

// out[n] = the first of the first `vocab` columns with the row's largest value; a NaN is never the largest. One block for each row, which
// is read once: 2·vocab bytes.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
argmax(int32_t* __restrict__ out, const __nv_bfloat16* __restrict__ logits, int64_t columns, int32_t vocab) {
    const __nv_bfloat16* row = logits + blockIdx.x * columns;
    float most = -INFINITY;
    int32_t best = 0x7fffffff;
    const auto consider = [&](float x, int32_t column) {
        if (x > most || (x == most && column < best)) {
            most = x;
            best = column;
        }
    };
    each_column(row, vocab, [&](int64_t column, float x) { consider(x, static_cast<int32_t>(column)); });
    __shared__ float values[ROW_THREADS / 32];
    __shared__ int32_t columns_of[ROW_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int apart = 16; apart > 0; apart >>= 1)
        consider(__shfl_xor_sync(0xffffffffu, most, apart), __shfl_xor_sync(0xffffffffu, best, apart));
    if (lane == 0) {
        values[warp] = most;
        columns_of[warp] = best;
    }
    __syncthreads();
    if (warp > 0) return;
    most = lane < ROW_THREADS / 32 ? values[lane] : -INFINITY;
    best = lane < ROW_THREADS / 32 ? columns_of[lane] : 0x7fffffff;
#pragma unroll
    for (int apart = 16; apart > 0; apart >>= 1)
        consider(__shfl_xor_sync(0xffffffffu, most, apart), __shfl_xor_sync(0xffffffffu, best, apart));
    if (lane == 0) out[blockIdx.x] = best == 0x7fffffff ? 0 : best;
}

// partials[block] = the sum of f(x) over every gridDim.x-th piece of THREADS elements.
template <class F>
__device__ __forceinline__ void sum_of(float* partials, const float* x, int64_t n, F f) {
    __shared__ float scratch[THREADS / 32];
    const int64_t whole = aligned16(x) ? n / 4 : 0;
    float sum = 0.0f;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const float4 v = load4(x + i * 4);
        sum += (f(v.x) + f(v.y)) + (f(v.z) + f(v.w));
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) sum += f(x[i]);
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// Reads 4·n bytes.
extern "C" __global__ void __launch_bounds__(THREADS) sum_blocks(float* __restrict__ partials, const float* __restrict__ x, int64_t n) {
    sum_of(partials, x, n, [](float v) { return v; });
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_squares_blocks(float* __restrict__ partials, const float* __restrict__ x, int64_t n) {
    sum_of(partials, x, n, [](float v) { return v * v; });
}

// out[0] = the sum of partials[0..n]. One block.
extern "C" __global__ void __launch_bounds__(THREADS) sum_partials(float* __restrict__ out, const float* __restrict__ partials, int32_t n) {
    __shared__ float scratch[THREADS / 32];
    float sum = 0.0f;
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < n; i += THREADS) sum += partials[i];
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) out[0] = sum;
}
