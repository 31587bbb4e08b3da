// Rows looked up in a table, and the table's gradient.
//
// An id outside of the table is clamped into it, so that whatever the ids are no memory but the tables' is touched.
#include "common.cuh"

// Rows that one warp looks up: their ids are one 32-byte access.
constexpr int ROWS = 8;
constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ int clamped(int id, int rows) { return min(max(id, 0), rows - 1); }

// out[n] = table[ids[n]]. out (N, C), table (V, C), ids (N) i32. A warp copies ROWS rows, a block 8·ROWS; V > 0, C > 0.
// Moves per row: reads 2·C + 4 bytes, writes 2·C. 16-byte accesses when C is a multiple of 8 and out and table are 16-byte aligned.
extern "C" __global__ void __launch_bounds__(THREADS)
embed(__nv_bfloat16* __restrict__ out, const __nv_bfloat16* __restrict__ table, const int* __restrict__ ids, int64_t n, int v, int c) {
    const int lane = threadIdx.x % 32;
    const int64_t first = grid_thread() / 32 * ROWS;
    if (first >= n) return;
    const int rows = static_cast<int>(min(static_cast<int64_t>(ROWS), n - first));
    const bool whole = c % 8 == 0 && aligned16(out) && aligned16(table);
    int id = 0;
    if (lane < rows) id = clamped(ids[first + lane], v);
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
        const __nv_bfloat16* from = table + static_cast<int64_t>(__shfl_sync(ALL, id, r)) * c;
        __nv_bfloat16* to = out + (first + r) * c;
        if (whole) {
#pragma unroll 4
            for (int i = lane * 8; i < c; i += 256) store8(to + i, load8(from + i));
        } else {
#pragma unroll 1
            for (int i = lane; i < c; i += 32) to[i] = from[i];
        }
    }
}

// Columns of a table that a warp adds to: four to a lane, one 16-byte access of f32.
constexpr int COLUMNS = 128;

// dtable[ids[n]] += dout[n] for all n, in ascending n for each id. dtable (V, C) f32, dout (N, C), ids (N), order (N): 0..N sorted by (id, n).
//
// A warp takes 32 places of `order` and COLUMNS columns, and adds up each run of equal ids that begins in its places, however far it goes; so
// each element of the table has one thread that adds to it, in order. Blocks: 8 warps, the columns' slices varying fastest.
// Moves: reads 2·C bytes for each n, 4·C for each distinct id, and about 16 for each n and slice; writes 4·C for each distinct id.
// When C is a multiple of 4, dtable is 16-byte and dout 8-byte aligned, accesses are of 16 and 8 bytes; else of single elements.
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward(
    float* __restrict__ dtable, const __nv_bfloat16* __restrict__ dout, const int* __restrict__ ids, const int* __restrict__ order,
    int64_t n, int v, int c
) {
    const int lane = threadIdx.x % 32;
    const int slices = (c + COLUMNS - 1) / COLUMNS;
    const int64_t warp = grid_thread() / 32;
    const int64_t begin = warp / slices * 32;
    if (begin >= n) return;
    const int column = static_cast<int>(warp % slices) * COLUMNS;
    const bool whole = c % 4 == 0 && aligned16(dtable) && (reinterpret_cast<uintptr_t>(dout) & 7) == 0;
    // This lane's columns: first, first + step, … below `last`.
    const int first = column + (whole ? lane * 4 : lane), step = whole ? 1 : 32;
    const int last = min(c, column + COLUMNS);

    // The row that place i of `order` names, and its id; −1 beyond the end, which no row has.
    const auto look_up = [&](int64_t i, int& row, int& id) {
        row = -1;
        id = -1;
        if (i < n) {
            row = clamped(order[i], static_cast<int>(n));
            id = clamped(ids[row], v);
        }
    };
    int row, id, before_row, before;
    look_up(begin + lane, row, id);
    look_up(begin + lane - 1 < 0 ? n : begin + lane - 1, before_row, before);
    unsigned starts = __ballot_sync(ALL, id != -1 && id != before);

#pragma unroll 1
    while (starts != 0) {
        const int start = __ffs(starts) - 1;
        starts &= starts - 1;
        const int run = __shfl_sync(ALL, id, start);
        float* to = dtable + static_cast<int64_t>(run) * c;
        float sum[4];
        if (whole) {
            if (first < last) {
                const float4 old = load4(to + first);
                sum[0] = old.x, sum[1] = old.y, sum[2] = old.z, sum[3] = old.w;
            }
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (first + k * step < last) sum[k] = to[first + k * step];
        }
        // Rows of the run, 32 places of `order` at a time: those of the places at hand first.
        int rows = row, its = id;
        int64_t base = begin;
        int from = start;
#pragma unroll 1
        while (true) {
            const unsigned same = __ballot_sync(ALL, its == run) >> from;
            // A run is contiguous: its length is the number of ones up to the first zero.
            const int length = same == ALL ? 32 : __ffs(~same) - 1;
#pragma unroll 4
            for (int r = from; r < from + length; ++r) {
                const __nv_bfloat16* d = dout + static_cast<int64_t>(__shfl_sync(ALL, rows, r)) * c;
                if (whole) {
                    if (first < last) {
                        const uint2 four = *reinterpret_cast<const uint2*>(d + first);
                        const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&four.x));
                        const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&four.y));
                        sum[0] += low.x, sum[1] += low.y, sum[2] += high.x, sum[3] += high.y;
                    }
                } else {
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        if (first + k * step < last) sum[k] += __bfloat162float(d[first + k * step]);
                }
            }
            if (from + length < 32) break;
            base += 32;
            from = 0;
            look_up(base + lane, rows, its);
        }
        if (whole) {
            if (first < last) store4(to + first, make_float4(sum[0], sum[1], sum[2], sum[3]));
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k)
                if (first + k * step < last) to[first + k * step] = sum[k];
        }
    }
}
