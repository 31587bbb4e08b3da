// Fill and cast over n contiguous elements. One launch of any number of blocks of THREADS threads; n > 0.
//
// 16-byte accesses where every pointer is 16-byte aligned, with a scalar tail; scalar throughout where a view starts elsewhere.
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

// Round to nearest, ties to even; beyond the largest bf16 to infinity; every NaN becomes 0x7fff.
extern "C" __global__ void __launch_bounds__(THREADS)
cast_f32_bf16(__nv_bfloat16* __restrict__ out, const float* __restrict__ x, int64_t n) {
    const int64_t whole = aligned16(out) && aligned16(x) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        const float4 low = load4(x + i * 8);
        const float4 high = load4(x + i * 8 + 4);
        const float eight[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        store8(out + i * 8, narrow8(eight));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) out[i] = __float2bfloat16_rn(x[i]);
}

// Exact. A NaN keeps its bits.
extern "C" __global__ void __launch_bounds__(THREADS)
cast_bf16_f32(float* __restrict__ out, const __nv_bfloat16* __restrict__ x, int64_t n) {
    const int64_t whole = aligned16(out) && aligned16(x) ? n / 8 : 0;
#pragma unroll 1
    for (int64_t i = grid_thread(); i < whole; i += grid_threads()) {
        float eight[8];
        widen8(eight, load8(x + i * 8));
        store4(out + i * 8, make_float4(eight[0], eight[1], eight[2], eight[3]));
        store4(out + i * 8 + 4, make_float4(eight[4], eight[5], eight[6], eight[7]));
    }
#pragma unroll 1
    for (int64_t i = whole * 8 + grid_thread(); i < n; i += grid_threads()) out[i] = __bfloat162float(x[i]);
}
