// c = a b, or c += a b: a (m, k), b (k, n) and c (m, n) row-major, a and b also as their transposes in memory.
//
// For products that a library is too much for, or that it refuses: any sizes, views that begin at any element. No tensor cores. Each element of c
// is the sum of one thread, in f32 and in the order of k, rounded once; it depends on neither the tile nor the launch.
//
// A block of 16 x 16 threads takes 32 x 32 elements of c, four to a thread, and 32 terms of their sums at a time through shared memory, whose rows
// are padded so that columns are written without bank conflicts. Bytes: each block reads its rows of a and its columns of b once, so that a is
// read n/32 times and b m/32 times; c is written once, and read when it is added to. At best about a quarter of the FLOPs that f32 has.
#include "common.cuh"

constexpr int TILE = 32;
constexpr int DEPTH = 32;
constexpr int SIDE = 16;
static_assert(SIDE * SIDE == THREADS && SIDE * 2 == TILE && DEPTH == 32, "a warp loads a row of a tile");

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void put(float& to, float x) { to = x; }
__device__ __forceinline__ void put(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

// tile[l][i] = term begin + l of element first + i, zero beyond `count` elements and k terms. Memory is (k, count) when `across`, else (count, k);
// lanes go along it.
template <class T>
__device__ __forceinline__ void load(float (&tile)[DEPTH][TILE + 1], const T* from, int first, int count, int begin, int k, bool across) {
    const int along = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < TILE; r += THREADS / 32) {
        const int other = threadIdx.x / 32 + r;
        const int i = across ? along : other, l = across ? other : along;
        float x = 0.0f;
        if (first + i < count && begin + l < k) {
            const int64_t row = across ? begin + l : first + i, column = across ? first + i : begin + l;
            x = widen(from[row * (across ? count : k) + column]);
        }
        tile[l][i] = x;
    }
}

template <class In, class Out>
__device__ __forceinline__ void
product(Out* __restrict__ c, const In* __restrict__ a, const In* __restrict__ b, int m, int n, int k, bool a_turned, bool b_turned, bool accumulate) {
    __shared__ float rows[DEPTH][TILE + 1], columns[DEPTH][TILE + 1];
    const int strips = (n + TILE - 1) / TILE;
    const int row = static_cast<int>(blockIdx.x / strips) * TILE, column = static_cast<int>(blockIdx.x % strips) * TILE;
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    float sum[2][2] = {};
#pragma unroll 1
    for (int begin = 0; begin < k; begin += DEPTH) {
        load(rows, a, row, m, begin, k, a_turned);
        load(columns, b, column, n, begin, k, !b_turned);
        __syncthreads();
        const int depth = min(DEPTH, k - begin);
#pragma unroll 4
        for (int l = 0; l < depth; ++l) {
            const float low = columns[l][x], high = columns[l][x + SIDE];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float factor = rows[l][y + i * SIDE];
                sum[i][0] = fmaf(factor, low, sum[i][0]);
                sum[i][1] = fmaf(factor, high, sum[i][1]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int at_row = row + y + i * SIDE, at_column = column + x + j * SIDE;
            if (at_row < m && at_column < n) {
                Out& to = c[static_cast<int64_t>(at_row) * n + at_column];
                put(to, accumulate ? widen(to) + sum[i][j] : sum[i][j]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) product_bf16(
    __nv_bfloat16* __restrict__ c, const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b, int m, int n, int k, int a_turned,
    int b_turned, int accumulate) {
    product(c, a, b, m, n, k, a_turned != 0, b_turned != 0, accumulate != 0);
}

extern "C" __global__ void __launch_bounds__(THREADS) product_bf16_f32(
    float* __restrict__ c, const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b, int m, int n, int k, int a_turned,
    int b_turned, int accumulate) {
    product(c, a, b, m, n, k, a_turned != 0, b_turned != 0, accumulate != 0);
}

extern "C" __global__ void __launch_bounds__(THREADS) product_f32(
    float* __restrict__ c, const float* __restrict__ a, const float* __restrict__ b, int m, int n, int k, int a_turned, int b_turned,
    int accumulate) {
    product(c, a, b, m, n, k, a_turned != 0, b_turned != 0, accumulate != 0);
}
