// C[M,N] = A[M,K] B[N,K]^T in bf16 on compute capability 9.0: a producer warp fetches 64 x 64 and 128 x 64 tiles by bulk
// tensor copies into a ring of stages, one warpgroup multiplies them by wgmma; mbarriers pass stages back and forth.
// The second kernel takes B as [K,N] (transposed descriptor) and A from registers, with one stage and ldmatrix.
#include <cuda_bf16.h>
#include <stdint.h>

#define TM 64
#define TN 128
#define TK 64
#define STAGES 3

struct alignas(64) TensorMap { uint64_t opaque[16]; };

__device__ __forceinline__ uint32_t at(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void init(uint64_t* b, int n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at(b)), "r"(n) : "memory"); }
__device__ __forceinline__ void expect(uint64_t* b, uint32_t bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at(b)), "r"(bytes) : "memory"); }
__device__ __forceinline__ void arrive(uint64_t* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at(b)) : "memory"); }
__device__ __forceinline__ void wait(uint64_t* b, uint32_t parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(at(b)), "r"(parity) : "memory");
}
__device__ __forceinline__ void fetch(void* to, const TensorMap* map, uint64_t* b, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
        ::"r"(at(to)), "l"(map), "r"(x), "r"(y), "r"(at(b)) : "memory");
}
// 128-byte swizzle; rows of 128 bytes, groups of eight rows 1024 bytes apart.
__device__ __forceinline__ uint64_t descriptor(const void* p, uint32_t leading) {
    return (uint64_t)((at(p) & 0x3ffff) >> 4) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define LIST64 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

__device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LIST64 ", %64, %65, p, 1, 1, 0, 0;\n}"
        : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56) : "l"(a), "l"(b), "r"(keep));
}
__device__ __forceinline__ void multiply_registers(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " LIST64 ", {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}"
        : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}
__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void finish() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

__device__ __forceinline__ void store(__nv_bfloat16* c, const float (&d)[64], int N, int m0, int n0) {
    int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = m0 + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < TN / 8; j++) {
        int column = n0 + j * 8 + lane % 4 * 2;
        *reinterpret_cast<__nv_bfloat162*>(c + (size_t)row * N + column) = __floats2bfloat162_rn(d[4 * j], d[4 * j + 1]);
        *reinterpret_cast<__nv_bfloat162*>(c + (size_t)(row + 8) * N + column) = __floats2bfloat162_rn(d[4 * j + 2], d[4 * j + 3]);
    }
}

extern "C" __global__ void __launch_bounds__(160) gemm_ring(const __grid_constant__ TensorMap ma, const __grid_constant__ TensorMap mb, __nv_bfloat16* __restrict__ c, int N, int K) {
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
    __nv_bfloat16* sa = reinterpret_cast<__nv_bfloat16*>(memory);
    __nv_bfloat16* sb = sa + STAGES * TM * TK;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            init(&full[i], 1);
            init(&empty[i], 1);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    int tiles = K / TK;
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128) {
            for (int t = 0; t < tiles; t++) {
                int s = t % STAGES;
                wait(&empty[s], (t / STAGES + 1) & 1);
                expect(&full[s], (TM + TN) * TK * 2);
                fetch(sa + s * TM * TK, &ma, &full[s], t * TK, blockIdx.y * TM);
                fetch(sb + s * TN * TK, &mb, &full[s], t * TK, blockIdx.x * TN);
            }
        }
    } else {
        float d[64] = {};
        for (int t = 0; t < tiles; t++) {
            int s = t % STAGES;
            wait(&full[s], t / STAGES & 1);
            fence();
#pragma unroll
            for (int k = 0; k < TK; k += 16) multiply(d, descriptor(sa + s * TM * TK + k, 16), descriptor(sb + s * TN * TK + k, 16), 1);
            finish();
            asm volatile("bar.sync 1, 128;" ::: "memory");
            if (threadIdx.x == 0) arrive(&empty[s]);
        }
        store(c, d, N, blockIdx.y * TM, blockIdx.x * TN);
    }
}

// B is [K,N]: a box of 64 columns by 64 rows, twice, so that 128 columns lie in two swizzled halves.
extern "C" __global__ void __launch_bounds__(128) gemm_registers(const __grid_constant__ TensorMap ma, const __grid_constant__ TensorMap mb, __nv_bfloat16* __restrict__ c, int N, int K) {
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ __align__(8) uint64_t full;
    uint8_t *sa = memory, *sb = memory + TM * TK * 2;
    if (threadIdx.x == 0) init(&full, 1);
    __syncthreads();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float d[64];
    for (int t = 0; t < K / TK; t++) {
        if (threadIdx.x == 0) {
            expect(&full, (TM + TN) * TK * 2);
            fetch(sa, &ma, &full, t * TK, blockIdx.y * TM);
            fetch(sb, &mb, &full, blockIdx.x * TN, t * TK);
            fetch(sb + 64 * TK * 2, &mb, &full, blockIdx.x * TN + 64, t * TK);
        }
        wait(&full, t & 1);
        fence();
#pragma unroll
        for (int k = 0; k < TK / 16; k++) {
            uint32_t a[4];
            int row = warp * 16 + lane % 16, chunk = 2 * k + lane / 16;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at(sa) + row * 128 + ((chunk ^ (row & 7)) << 4)) : "memory");
            multiply_registers(d, a, descriptor(sb + k * 16 * 128, 64 * TK * 2), t + k > 0);
        }
        finish();
        __syncthreads();
    }
    store(c, d, N, blockIdx.y * TM, blockIdx.x * TN);
}
