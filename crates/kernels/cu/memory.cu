// Fill and cast over n contiguous elements. One launch of any number of blocks of THREADS threads; n > 0.
//
// Vector accesses where every pointer is aligned to them, with a scalar tail; scalar throughout where a view starts elsewhere.
// Bytes moved: the elements written and, for a cast, the elements read, once each. Loops stay rolled: unrolled by an unknown count
// they begin with a 64-bit division, and it is the many threads that keep memory busy.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS)
fill_u16(uint16_t* __restrict__ out, uint16_t value, int64_t n) {
    const int64_t whole = aligned16(out) ? n / 8 : 0;
    const uint32_t twice = value * 0x10001u;
    const uint4 eight = make_uint4(twice, twice, twice, twice);
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) reinterpret_cast<uint4*>(out)[i] = eight;
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) out[i] = value;
}

extern "C" __global__ void __launch_bounds__(THREADS)
fill_u32(uint32_t* __restrict__ out, uint32_t value, int64_t n) {
    const int64_t whole = aligned16(out) ? n / 4 : 0;
    const uint4 four = make_uint4(value, value, value, value);
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) reinterpret_cast<uint4*>(out)[i] = four;
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) out[i] = value;
}

// Four bf16 as one 8-byte access moves them: beside it go the same four as f32, 16 bytes, so that a warp's accesses on either side are
// contiguous.
struct alignas(8) Bf16x4 {
    __nv_bfloat162 low, high;
};

__device__ __forceinline__ int64_t groups_of_four(const float* wide, const __nv_bfloat16* narrow, int64_t n) {
    return aligned16(wide) && (reinterpret_cast<uintptr_t>(narrow) & 7) == 0 ? n / 4 : 0;
}

// Round to nearest, ties to even; beyond the largest bf16 to infinity; every NaN becomes 0x7fff.
extern "C" __global__ void __launch_bounds__(THREADS)
cast_f32_bf16(__nv_bfloat16* __restrict__ out, const float* __restrict__ x, int64_t n) {
    const int64_t whole = groups_of_four(x, out, n);
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const float4 v = load4(x + i * 4);
        const Bf16x4 narrow = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
        reinterpret_cast<uint2*>(out)[i] = *reinterpret_cast<const uint2*>(&narrow);
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) out[i] = __float2bfloat16_rn(x[i]);
}

// Exact. A NaN keeps its bits.
extern "C" __global__ void __launch_bounds__(THREADS)
cast_bf16_f32(float* __restrict__ out, const __nv_bfloat16* __restrict__ x, int64_t n) {
    const int64_t whole = groups_of_four(out, x, n);
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        Bf16x4 v;
        *reinterpret_cast<uint2*>(&v) = reinterpret_cast<const uint2*>(x)[i];
        const float2 low = __bfloat1622float2(v.low), high = __bfloat1622float2(v.high);
        store4(out + i * 4, make_float4(low.x, low.y, high.x, high.y));
    }
#pragma unroll 1
    for (int64_t i = whole * 4 + grid_thread(); i < n; i += grid_threads()) out[i] = __bfloat162float(x[i]);
}
