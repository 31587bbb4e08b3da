// What kernels on tensor cores share: asynchronous copies into shared memory, tiles of 64 rows laid out for ldmatrix, and the products of
// 16 x 16 by 16 x 8 that mma.sync makes of bf16 with sums in f32.
//
// Fragments, with g = lane / 4 and t = lane % 4: an accumulator c holds row g, columns 2t and 2t + 1 in c[0], c[1] and row g + 8 in c[2],
// c[3]; two accumulators side by side, rounded, are a left operand of the next product (`left_of`).
#pragma once

#include <cstdint>
#include <cuda_bf16.h>

// Blocks of 128 threads that a multiprocessor should hold, for head dim D: as many as leave registers for everything. Left to itself, the
// assembler spills some to hold one more.
__host__ __device__ constexpr int blocks_at_once(int D) { return D > 64 ? 2 : D > 32 ? 3 : 4; }

// Copies 16 bytes to shared memory without waiting; zeros, with nothing read, unless `inside`.
__device__ __forceinline__ void copy16(uint32_t to, const void* from, bool inside) {
    const int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// As copy16, 4 bytes.
__device__ __forceinline__ void copy4(uint32_t to, const void* from, bool inside) {
    const int bytes = inside ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most IN_FLIGHT of this thread's latest groups are under way.
template <int IN_FLIGHT>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(IN_FLIGHT) : "memory");
}

// Explicit, because a vector put together in registers may be stored in four pieces otherwise.
__device__ __forceinline__ uint4 load16_shared(uint32_t at) {
    uint4 x;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(at) : "memory");
    return x;
}
__device__ __forceinline__ void load8_shared(float (&x)[2], uint32_t at) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(at) : "memory");
}
__device__ __forceinline__ void store4_shared(uint32_t at, uint32_t x) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(x) : "memory");
}
__device__ __forceinline__ void store16(__nv_bfloat16* at, uint4 x) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// Four 8 x 8 matrices; lane i names the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// c += a b.
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two f32 rounded to bf16, `low` in the lower half.
__device__ __forceinline__ uint32_t rounded_pair(float low, float high) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&v);
}
// Two accumulators, 16 x 8 each and side by side, as a left operand of 16 x 16.
__device__ __forceinline__ void left_of(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
    a[0] = rounded_pair(first[0], first[1]);
    a[1] = rounded_pair(first[2], first[3]);
    a[2] = rounded_pair(second[0], second[1]);
    a[3] = rounded_pair(second[2], second[3]);
}

// 2^x, 0 where x is -infinity or the result would be subnormal.
__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ROWS rows of D bf16 in shared memory, D a power of two from 16 to 128. A row's 16-byte chunks are permuted by its number so that eight
// consecutive rows hold any one chunk in eight different groups of four banks: neither ldmatrix nor the copies meet a bank conflict.
template <int D, int ROWS = 64>
struct Tile {
    static constexpr int CHUNKS = D / 8;
    static constexpr int BYTES = ROWS * D * 2;

    static __device__ __forceinline__ uint32_t at(int row, int chunk) {
        const int turn = CHUNKS >= 8 ? row % 8 : row / (8 / CHUNKS) % CHUNKS;
        return row * (D * 2) + ((chunk ^ turn) * 16);
    }

    // Starts copying rows first .. first + ROWS of a matrix whose rows are `stride` elements apart, by 128 threads; rows outside
    // 0 .. rows become zeros. The caller commits.
    static __device__ __forceinline__ void copy(uint32_t to, const __nv_bfloat16* from, int first, int rows, int64_t stride) {
        constexpr int STEP = 128 / CHUNKS;
        const int own = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) {
            const int row = first + own + i;
            const bool inside = row >= 0 && row < rows;
            copy16(to + at(own + i, chunk), from + (inside ? row : 0) * stride + chunk * 8, inside);
        }
    }

    // Rows row .. row + 16, columns 16 k .. 16 k + 16, as a left operand.
    static __device__ __forceinline__ void left(uint32_t (&a)[4], uint32_t tile, int row, int k) {
        const int lane = threadIdx.x % 32;
        load_matrices(a, tile + at(row + lane % 16, 2 * k + lane / 16));
    }
    // The same 16 x 16 as right operands of two products that sum over columns: {b[0], b[1]} for rows row .. row + 8, {b[2], b[3]} for the
    // eight after.
    static __device__ __forceinline__ void right(uint32_t (&b)[4], uint32_t tile, int row, int k) {
        const int lane = threadIdx.x % 32;
        load_matrices(b, tile + at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    }
    // The same 16 x 16 as right operands of two products that sum over rows: {b[0], b[1]} for columns 16 k .. 16 k + 8, {b[2], b[3]} for
    // the eight after.
    static __device__ __forceinline__ void right_by_rows(uint32_t (&b)[4], uint32_t tile, int row, int k) {
        const int lane = threadIdx.x % 32;
        load_matrices_transposed(b, tile + at(row + lane % 16, 2 * k + lane / 16));
    }

    // Writes 16 x D accumulators, the warp's rows of a result, times `factor` for rows lane / 4 and lane / 4 + 8, rounded, by way of rows
    // warp * 16 .. of the tile, which no other warp may be using. `out` is the warp's first row; the rows after `rows` are left out.
    static __device__ __forceinline__ void store(
        uint32_t tile, const float (&c)[D / 8][4], const float (&factor)[2], __nv_bfloat16* out, int64_t stride, int rows) {
        const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                const uint32_t pair = rounded_pair(c[n][2 * r] * factor[r], c[n][2 * r + 1] * factor[r]);
                store4_shared(tile + at(first + lane / 4 + r * 8, n) + lane % 4 * 4, pair);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = lane; i < 16 * CHUNKS; i += 32) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const uint4 x = load16_shared(tile + at(first + row, chunk));
            if (row < rows) store16(out + row * stride + chunk * 8, x);
        }
    }
};
