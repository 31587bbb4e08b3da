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
            for (int i = lane * 8; i < c; i += 256)
                *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
        } else {
#pragma unroll 1
            for (int i = lane; i < c; i += 32) to[i] = from[i];
        }
    }
}

// Columns of a table that a warp adds to: four to a lane.
constexpr int COLUMNS = 128;
// Rows of a run whose loads are under way together.
constexpr int AT_ONCE = 8;

// The columns of a lane: four that lie together, in one access, or four that are 32 apart, of which those beyond `last` are left alone.
template <bool WHOLE>
struct Columns {
    int first, last;

    __device__ __forceinline__ Columns(int slice, int lane, int c)
        : first(slice * COLUMNS + (WHOLE ? lane * 4 : lane)), last(min(c, slice * COLUMNS + COLUMNS)) {}

    __device__ __forceinline__ float4 load(const float* row) const {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if constexpr (WHOLE) {
            if (first < last) v = load4(row + first);
        } else {
            if (first < last) v.x = row[first];
            if (first + 32 < last) v.y = row[first + 32];
            if (first + 64 < last) v.z = row[first + 64];
            if (first + 96 < last) v.w = row[first + 96];
        }
        return v;
    }

    __device__ __forceinline__ void store(float* row, float4 v) const {
        if constexpr (WHOLE) {
            if (first < last) store4(row + first, v);
        } else {
            if (first < last) row[first] = v.x;
            if (first + 32 < last) row[first + 32] = v.y;
            if (first + 64 < last) row[first + 64] = v.z;
            if (first + 96 < last) row[first + 96] = v.w;
        }
    }

    // sum += each of `ROWS_` rows, in order.
    template <int ROWS_>
    __device__ __forceinline__ void add(float4& sum, const __nv_bfloat16* const (&rows)[ROWS_]) const {
        if constexpr (WHOLE) {
            if (first >= last) return;
            uint2 v[ROWS_];
#pragma unroll
            for (int r = 0; r < ROWS_; ++r) v[r] = *reinterpret_cast<const uint2*>(rows[r] + first);
#pragma unroll
            for (int r = 0; r < ROWS_; ++r) {
                const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&v[r].x));
                const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&v[r].y));
                sum.x += low.x, sum.y += low.y, sum.z += high.x, sum.w += high.y;
            }
        } else {
#pragma unroll
            for (int r = 0; r < ROWS_; ++r) {
                if (first < last) sum.x += __bfloat162float(rows[r][first]);
                if (first + 32 < last) sum.y += __bfloat162float(rows[r][first + 32]);
                if (first + 64 < last) sum.z += __bfloat162float(rows[r][first + 64]);
                if (first + 96 < last) sum.w += __bfloat162float(rows[r][first + 96]);
            }
        }
    }
};

// What the gradient of embed reads and writes.
struct Gradient {
    float* __restrict__ dtable;
    const __nv_bfloat16* __restrict__ dout;
    const int* __restrict__ ids;
    const int* __restrict__ order;
    int n, v, c;

    // The row that place i of `order` names, and its id; −1, which no row has, outside of 0..n.
    __device__ __forceinline__ void look_up(int64_t i, int& row, int& id) const {
        row = -1;
        id = -1;
        if (i >= 0 && i < n) {
            row = clamped(order[i], n);
            id = clamped(ids[row], v);
        }
    }

    __device__ __forceinline__ const __nv_bfloat16* row(int row) const { return dout + static_cast<int64_t>(row) * c; }

    // Adds up the runs of equal ids that begin in the 32 places from `begin` on, in this warp's slice of the columns.
    template <bool WHOLE>
    __device__ __forceinline__ void add_runs(int64_t begin, int slice) const {
        const int lane = threadIdx.x % 32;
        const Columns<WHOLE> columns(slice, lane, c);
        int row_here, id, row_before, before;
        look_up(begin + lane, row_here, id);
        look_up(begin + lane - 1, row_before, before);
        unsigned starts = __ballot_sync(ALL, id != -1 && id != before);
#pragma unroll 1
        while (starts != 0) {
            int from = __ffs(starts) - 1;
            starts &= starts - 1;
            const int run = __shfl_sync(ALL, id, from);
            float* to = dtable + static_cast<int64_t>(run) * c;
            float4 sum = columns.load(to);
            // 32 places at a time, those at hand first.
            int rows = row_here, its = id;
            int64_t base = begin;
#pragma unroll 1
            while (true) {
                // A run is contiguous: it goes on up to the first place of another id.
                const unsigned others = __ballot_sync(ALL, its != run) >> from;
                const int end = others == 0 ? 32 : from + __ffs(others) - 1;
                int r = from;
#pragma unroll 1
                for (; r + AT_ONCE <= end; r += AT_ONCE) {
                    const __nv_bfloat16* d[AT_ONCE];
#pragma unroll
                    for (int k = 0; k < AT_ONCE; ++k) d[k] = row(__shfl_sync(ALL, rows, r + k));
                    columns.add(sum, d);
                }
#pragma unroll 1
                for (; r < end; ++r) {
                    const __nv_bfloat16* d[1] = {row(__shfl_sync(ALL, rows, r))};
                    columns.add(sum, d);
                }
                if (end < 32) break;
                base += 32;
                from = 0;
                look_up(base + lane, rows, its);
            }
            columns.store(to, sum);
        }
    }
};

// dtable[ids[n]] += dout[n] for all n, in ascending n for each id. dtable (V, C) f32, dout (N, C), ids (N), order (N): 0..N sorted by (id, n).
//
// A warp takes 32 places of `order` and COLUMNS columns, and adds up each run of equal ids that begins in its places, however far it goes; so
// each element of the table has one thread that adds to it, in order. A block has 8 warps; the columns' slices vary fastest.
// Moves: reads 2·C bytes for each n, 4·C for each distinct id, and 16 to 32 for each n and slice; writes 4·C for each distinct id.
// When C is a multiple of 4, dtable 16-byte and dout 8-byte aligned, accesses are of 16 and 8 bytes; else of single elements.
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward(
    float* __restrict__ dtable, const __nv_bfloat16* __restrict__ dout, const int* __restrict__ ids, const int* __restrict__ order,
    int n, int v, int c
) {
    const unsigned slices = (c + COLUMNS - 1) / COLUMNS;
    // 32-bit: the launch code sees to it that there are fewer than 2³¹ warps.
    const unsigned warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int64_t begin = static_cast<int64_t>(warp / slices) * 32;
    if (begin >= n) return;
    const Gradient gradient{dtable, dout, ids, order, n, v, c};
    const int slice = static_cast<int>(warp % slices);
    if (c % 4 == 0 && aligned16(dtable) && (reinterpret_cast<uintptr_t>(dout) & 7) == 0) {
        gradient.add_runs<true>(begin, slice);
    } else {
        gradient.add_runs<false>(begin, slice);
    }
}
