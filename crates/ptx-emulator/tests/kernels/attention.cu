// Causal attention with an optional window, bf16, head dimension 64 or 128: one block for 64 queries of one head, four
// warps of 16 rows, keys and values through shared memory in tiles of 64 by cp.async, products by mma.sync.
// Layout (B, T, H, D). window 0: none; else key j is seen by query i if i - window <= j <= i.
#include <cuda_bf16.h>
#include <math_constants.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ void fetch(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void matrices(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void matrices_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t pair(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&v);
}

// Rows of 2 D bytes in chunks of 16, the chunk's number xored with the row's so that eight rows of a column use all banks.
template <int D> __device__ __forceinline__ uint32_t chunk(int row, int c) { return row * (2 * D) + ((c ^ (row & 7)) << 4); }

template <int D> __device__ __forceinline__ void tile(uint32_t to, const bf16* from, int first, int T, size_t stride) {
#pragma unroll
    for (int i = threadIdx.x; i < 64 * D / 8; i += 128) {
        int row = i / (D / 8), c = i % (D / 8);
        int source = min(first + row, T - 1);
        fetch(to + chunk<D>(row, c), from + source * stride + c * 8);
    }
    commit();
}

template <int D> __device__ __forceinline__ void attend(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, int T, int H, int window, float scale) {
    extern __shared__ __align__(128) uint8_t memory[];
    uint32_t sq = (uint32_t)__cvta_generic_to_shared(memory), sk = sq + 64 * 2 * D, sv = sk + 64 * 2 * D;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y, batch = blockIdx.z;
    int first = blockIdx.x * 64, row = first + warp * 16 + lane / 4;
    size_t stride = (size_t)H * D, base = ((size_t)batch * T * H + head) * D;
    int last_tile = min(first + 63, T - 1) / 64, tile0 = window > 0 ? max(first - window, 0) / 64 : 0;
    tile<D>(sq, q + base, first, T, stride);
    tile<D>(sk, k + base, tile0 * 64, T, stride);
    float o[D / 8][4] = {}, top[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0.f, 0.f};
    uint32_t query[D / 16][4];
    float log2_scale = scale * 1.4426950408889634f;
    for (int t = tile0; t <= last_tile; t++) {
        tile<D>(sv, v + base, t * 64, T, stride);
        wait<1>();
        __syncthreads();
        if (t == tile0) {
#pragma unroll
            for (int i = 0; i < D / 16; i++) matrices(query[i], sq + chunk<D>(warp * 16 + lane % 16, 2 * i + lane / 16));
        }
        float s[8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t r[4];
                matrices(r, sk + chunk<D>(n * 16 + (lane & 7) + (lane / 16) * 8, 2 * i + (lane / 8) % 2));
                multiply(s[2 * n], query[i], r[0], r[1]);
                multiply(s[2 * n + 1], query[i], r[2], r[3]);
            }
        }
        __syncthreads();
        if (t < last_tile) tile<D>(sk, k + base, (t + 1) * 64, T, stride);
        else commit();
        float most[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int key = t * 64 + n * 8 + (lane % 4) * 2 + j % 2, i = row + (j / 2) * 8;
                bool seen = key <= i && (window == 0 || key >= i - window);
                s[n][j] = seen ? s[n][j] * log2_scale : -CUDART_INF_F;
                most[j / 2] = fmaxf(most[j / 2], s[n][j]);
            }
        }
        float decay[2], offset[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 1));
            most[i] = fmaxf(most[i], __shfl_xor_sync(0xffffffffu, most[i], 2));
            offset[i] = most[i] == -CUDART_INF_F ? 0.f : most[i];
            decay[i] = exp2f(top[i] - offset[i]);
            top[i] = most[i];
            sum[i] *= decay[i];
        }
        uint32_t p[4][4];
#pragma unroll
        for (int n = 0; n < 8; n++) {
            float e[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                e[j] = exp2f(s[n][j] - offset[j / 2]);
                sum[j / 2] += e[j];
            }
            p[n / 2][n % 2 * 2] = pair(e[0], e[1]);
            p[n / 2][n % 2 * 2 + 1] = pair(e[2], e[3]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) o[n][j] *= decay[j / 2];
        }
        wait<1>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                uint32_t r[4];
                matrices_transposed(r, sv + chunk<D>(i * 16 + lane % 16, 2 * n + lane / 16));
                multiply(o[2 * n], p[i], r[0], r[1]);
                multiply(o[2 * n + 1], p[i], r[2], r[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        int r = row + i * 8;
        if (r >= T) continue;
        float inverse = 1.f / sum[i];
        if (lane % 4 == 0) lse[((size_t)batch * H + head) * T + r] = (top[i] + log2f(sum[i])) * 0.6931471805599453f;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *reinterpret_cast<uint32_t*>(out + base + r * stride + n * 8 + (lane % 4) * 2) = pair(o[n][2 * i] * inverse, o[n][2 * i + 1] * inverse);
    }
}

extern "C" __global__ void __launch_bounds__(128) attention_64(bf16* __restrict__ out, float* __restrict__ lse, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, int T, int H, int window, float scale) {
    attend<64>(out, lse, q, k, v, T, H, window, scale);
}
extern "C" __global__ void __launch_bounds__(128) attention_128(bf16* __restrict__ out, float* __restrict__ lse, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, int T, int H, int window, float scale) {
    attend<128>(out, lse, q, k, v, T, H, window, scale);
}
