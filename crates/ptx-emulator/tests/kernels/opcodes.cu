// One lane, one value: as many different instructions as nvcc will emit, each with its result in a slot of its own. The
// host computes the same from the definitions.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

extern "C" __global__ void integers(uint64_t* out, const int* a32, const int* b32, const long long* a64, const long long* b64, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int a = a32[i], b = b32[i];
    unsigned ua = a, ub = b;
    long long x = a64[i], y = b64[i];
    unsigned long long ux = x, uy = y;
    uint64_t* o = out + (size_t)i * 48;
    int s = 0;
    o[s++] = (uint32_t)__mulhi(a, b);
    o[s++] = __umulhi(ua, ub);
    o[s++] = (uint64_t)__mul64hi(x, y);
    o[s++] = __umul64hi(ux, uy);
    o[s++] = (uint64_t)((long long)a * b);
    o[s++] = (uint64_t)ua * ub;
    o[s++] = (uint32_t)(b ? a / b : 0);
    o[s++] = (uint32_t)(b ? a % b : 0);
    o[s++] = ub ? ua / ub : 0;
    o[s++] = ub ? ua % ub : 0;
    o[s++] = y && !(y == -1) ? (uint64_t)(x / y) : 0;
    o[s++] = y ? ux / uy : 0;
    o[s++] = y ? ux % uy : 0;
    o[s++] = __popc(ua);
    o[s++] = __popcll(ux);
    o[s++] = __clz(a);
    o[s++] = __clzll(x);
    o[s++] = __brev(ua);
    o[s++] = __brevll(ux);
    o[s++] = (uint32_t)__ffs(a);
    o[s++] = __byte_perm(ua, ub, 0x5140);
    o[s++] = __byte_perm(ua, ub, ub);
    o[s++] = __funnelshift_l(ua, ub, ub);
    o[s++] = __funnelshift_r(ua, ub, ub);
    o[s++] = __funnelshift_lc(ua, ub, ub & 63);
    o[s++] = __funnelshift_rc(ua, ub, ub & 63);
    o[s++] = __sad(a, b, 7u);
    o[s++] = __usad(ua, ub, 7u);
    o[s++] = (uint32_t)__dp4a(a, b, 5);
    o[s++] = __dp4a(ua, ub, 5u);
    o[s++] = (uint32_t)min(a, b);
    o[s++] = max(ua, ub);
    o[s++] = (uint64_t)min(x, y);
    o[s++] = max(ux, uy);
    o[s++] = (uint32_t)abs(a);
    o[s++] = (uint64_t)llabs(x);
    o[s++] = (ua & ub) | (~ua & (ub ^ 0x55555555u));
    o[s++] = (uint32_t)(a >> (b & 31));
    o[s++] = ux >> (b & 63);
    o[s++] = (uint64_t)(x >> (b & 63));
    o[s++] = (uint16_t)(int16_t)((short)a * (short)b);
    o[s++] = (uint32_t)(int)(signed char)a;
    o[s++] = (uint32_t)__mul24(a, b);
    o[s++] = __umul24(ua, ub);
    o[s++] = (uint32_t)__vadd2(ua, ub);
    o[s++] = (uint32_t)__hadd(a, b);
    o[s++] = __uhadd(ua, ub);
    o[s++] = ua % 10;
}

extern "C" __global__ void floats(float* out, double* wide, const float* a32, const float* b32, const float* c32, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float a = a32[i], b = b32[i], c = c32[i];
    float* o = out + (size_t)i * 40;
    int s = 0;
    o[s++] = __fadd_rn(a, b);
    o[s++] = __fadd_rz(a, b);
    o[s++] = __fadd_ru(a, b);
    o[s++] = __fadd_rd(a, b);
    o[s++] = __fmul_rn(a, b);
    o[s++] = __fmul_rz(a, b);
    o[s++] = __fmul_ru(a, b);
    o[s++] = __fmul_rd(a, b);
    o[s++] = __fmaf_rn(a, b, c);
    o[s++] = __fmaf_rz(a, b, c);
    o[s++] = __fmaf_ru(a, b, c);
    o[s++] = __fmaf_rd(a, b, c);
    o[s++] = __fdiv_rn(a, b);
    o[s++] = __fdiv_rz(a, b);
    o[s++] = __frcp_rn(a);
    o[s++] = __fsqrt_rn(fabsf(a));
    o[s++] = __fsqrt_ru(fabsf(a));
    o[s++] = __saturatef(a);
    o[s++] = fminf(a, b);
    o[s++] = fmaxf(a, b);
    o[s++] = floorf(a);
    o[s++] = ceilf(a);
    o[s++] = truncf(a);
    o[s++] = rintf(a);
    o[s++] = copysignf(a, b);
    o[s++] = __int_as_float(__float2int_rn(a));
    o[s++] = __int_as_float(__float2int_rz(a));
    o[s++] = __int_as_float(__float2int_rd(a));
    o[s++] = __int_as_float(__float2int_ru(a));
    o[s++] = __int_as_float(__float2uint_rz(a));
    o[s++] = __int2float_rz(__float_as_int(b));
    o[s++] = __uint2float_ru(__float_as_uint(b));
    o[s++] = __half2float(__float2half_rn(a));
    o[s++] = __half2float(__float2half_rz(a));
    o[s++] = __bfloat162float(__float2bfloat16_rn(a));
    o[s++] = __bfloat162float(__float2bfloat16_rz(a));
    o[s++] = isnan(a) ? 1.f : isinf(a) ? 2.f : 0.f;
    o[s++] = a < b ? 1.f : a >= b ? 2.f : 3.f;
    o[s++] = __double2float_rn((double)a * (double)b);
    o[s++] = __double2float_rz((double)a * (double)b);
    double x = a, y = b, z = c;
    double* w = wide + (size_t)i * 8;
    w[0] = x + y;
    w[1] = x * y;
    w[2] = x / y;
    w[3] = fma(x, y, z);
    w[4] = sqrt(fabs(x));
    w[5] = (double)__double2ll_rz(x * 1e10);
    w[6] = fmin(x, y);
    w[7] = (double)(float)rint(x);
}

extern "C" __global__ void halves(uint32_t* out, const uint32_t* a2, const uint32_t* b2, const uint32_t* c2, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    uint32_t ra = a2[i], rb = b2[i], rc = c2[i];
    __half2 ha = *(__half2*)&ra, hb = *(__half2*)&rb, hc = *(__half2*)&rc;
    __nv_bfloat162 ba = *(__nv_bfloat162*)&ra, bb = *(__nv_bfloat162*)&rb, bc = *(__nv_bfloat162*)&rc;
    uint32_t* o = out + (size_t)i * 16;
    __half2 h;
    __nv_bfloat162 b;
    int s = 0;
    h = __hadd2(ha, hb), o[s++] = *(uint32_t*)&h;
    h = __hsub2(ha, hb), o[s++] = *(uint32_t*)&h;
    h = __hmul2(ha, hb), o[s++] = *(uint32_t*)&h;
    h = __hfma2(ha, hb, hc), o[s++] = *(uint32_t*)&h;
    h = __hmin2(ha, hb), o[s++] = *(uint32_t*)&h;
    h = __hmax2(ha, hb), o[s++] = *(uint32_t*)&h;
    h = __hneg2(ha), o[s++] = *(uint32_t*)&h;
    h = __habs2(ha), o[s++] = *(uint32_t*)&h;
    b = __hfma2(ba, bb, bc), o[s++] = *(uint32_t*)&b;
    b = __hadd2(ba, bb), o[s++] = *(uint32_t*)&b;
    b = __hmul2(ba, bb), o[s++] = *(uint32_t*)&b;
    b = __hmax2(ba, bb), o[s++] = *(uint32_t*)&b;
    b = __hmin2(ba, bb), o[s++] = *(uint32_t*)&b;
    o[s++] = __float_as_uint(__low2float(ha));
    o[s++] = __float_as_uint(__high2float(ba));
    o[s++] = (uint32_t)(uint16_t)__half_as_short(__hfma(__low2half(ha), __low2half(hb), __low2half(hc)));
}

// Shared memory, divergence, a switch, local memory, constants, atomics, votes and warp reductions.
__constant__ int table[8] = {3, -1, 4, 1, -5, 9, 2, 6};
__device__ unsigned long long total;

extern "C" __global__ void control(int* out, int* histogram, unsigned* counters, float* sums, const int* in, int n) {
    __shared__ int bins[16];
    __shared__ int tile[32][33];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t, lane = t % 32;
    if (t < 16) bins[t] = 0;
    __syncthreads();
    int v = i < n ? in[i] : 0, result = 0;
    for (int k = 0; k < (v & 15); k++) {
        if ((v >> k) & 1) result += k * table[k & 7];
        else if (k % 3 == 0) continue;
        if (result > 40) break;
    }
    switch (v & 7) {
    case 0: result += 11; break;
    case 1: result ^= 0x55; break;
    case 2: result -= lane; break;
    case 3: result = -result; break;
    case 4: result *= 3; break;
    case 5: result >>= 1; break;
    case 6: result = result % 7; break;
    default: result |= 0x100;
    }
    int stack[16];
    for (int k = 0; k < 16; k++) stack[k] = v + k;
    for (int k = 0; k < 16; k++) stack[(v + k) & 15] += stack[k] >> 1;
    result += stack[v & 15];
    if (i < n) atomicAdd(&bins[v & 15], 1);
    __syncthreads();
    if (t < 16) atomicAdd(&histogram[t], bins[t]);
    unsigned active = __ballot_sync(0xffffffffu, (v & 1) != 0);
    int any = __any_sync(0xffffffffu, v == 3), all = __all_sync(0xffffffffu, v >= 0);
    unsigned same = __match_any_sync(0xffffffffu, v & 3);
    int least = __reduce_min_sync(0xffffffffu, v);
    unsigned bits = __reduce_or_sync(0xffffffffu, (unsigned)v);
    int up = __shfl_up_sync(0xffffffffu, v, 3), down = __shfl_down_sync(0xffffffffu, v, 5, 16);
    int from = __shfl_sync(0xffffffffu, v, v & 31), across = __shfl_xor_sync(0xffffffffu, v, 9);
    if (t < 32)
        for (int r = 0; r < 4; r++) tile[lane][r] = v + r;
    __syncthreads();
    int column = t < 128 ? tile[(t * 7) & 31][t & 3] : 0;
    int count = __syncthreads_count(v & 2), every = __syncthreads_and(v >= 0), some = __syncthreads_or(v == 5);
    if (i < n) {
        int* o = out + (size_t)i * 16;
        o[0] = result;
        o[1] = (int)active;
        o[2] = any * 2 + all;
        o[3] = (int)same;
        o[4] = least;
        o[5] = (int)bits;
        o[6] = up;
        o[7] = down;
        o[8] = from;
        o[9] = across;
        o[10] = column;
        o[11] = count;
        o[12] = every * 2 + some;
        atomicMin(&counters[0], (unsigned)v);
        atomicMax(&counters[1], (unsigned)v);
        atomicInc(&counters[2], 99);
        atomicDec(&counters[3], 99);
        atomicXor(&counters[4], (unsigned)v);
        unsigned old = counters[5], seen;
        do { seen = old; old = atomicCAS(&counters[5], seen, seen + 2); } while (old != seen);
        atomicAdd(&sums[0], 1.0f);
        atomicAdd(&total, (unsigned long long)v);
        o[13] = atomicExch(&histogram[16 + i], v);
    }
}

extern "C" __global__ void fp8(uint16_t* out, float* back, const float* in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float2 f = make_float2(in[2 * i], in[2 * i + 1]);
    __nv_fp8x2_storage_t e4 = __nv_cvt_float2_to_fp8x2(f, __NV_SATFINITE, __NV_E4M3);
    __nv_fp8x2_storage_t e5 = __nv_cvt_float2_to_fp8x2(f, __NV_SATFINITE, __NV_E5M2);
    out[2 * i] = e4;
    out[2 * i + 1] = e5;
    __half2_raw h4 = __nv_cvt_fp8x2_to_halfraw2(e4, __NV_E4M3), h5 = __nv_cvt_fp8x2_to_halfraw2(e5, __NV_E5M2);
    back[4 * i] = __half2float(__half(__half_raw{h4.x}));
    back[4 * i + 1] = __half2float(__half(__half_raw{h4.y}));
    back[4 * i + 2] = __half2float(__half(__half_raw{h5.x}));
    back[4 * i + 3] = __half2float(__half(__half_raw{h5.y}));
}
