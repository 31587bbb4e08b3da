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
constexpr int WARPS = THREADS / 32;
// Places of the order that a block adds up: 32 to a warp.
constexpr int PIECE = WARPS * 32;

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

__device__ __forceinline__ float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// What of a warp's places belongs to a run that began before them.
enum Head { NONE, ENDS, GOES_ON };

// What the gradient of embed reads and writes. `order` is a part of the order, of `places` places; what came before it is done.
struct Gradient {
    float* __restrict__ dtable;
    float* __restrict__ heads;
    const __nv_bfloat16* __restrict__ dout;
    const int* __restrict__ ids;
    const int* __restrict__ order;
    int n, places, v, c;

    // The row that a place of `order` names, and its id; −1, which no row has, outside of the places.
    __device__ __forceinline__ void look_up(int place, int& row, int& id) const {
        row = -1;
        id = -1;
        if (place >= 0 && place < places) {
            row = clamped(order[place], n);
            id = clamped(ids[row], v);
        }
    }
    __device__ __forceinline__ int id_at(int place) const {
        int row, id;
        look_up(place, row, id);
        return id;
    }

    __device__ __forceinline__ const __nv_bfloat16* row(int row) const { return dout + static_cast<int64_t>(row) * c; }
    __device__ __forceinline__ float* to(int id) const { return dtable + static_cast<int64_t>(id) * c; }

    // A lane's share of a piece's head, in slice `slot` of `slots`.
    __device__ __forceinline__ float* head(int piece, int slot, int slots) const {
        return heads + (static_cast<int64_t>(piece) * slots + slot) * COLUMNS + threadIdx.x % 32 * 4;
    }

    // Adds up the runs of equal ids in a block's piece of the places, in one slice of the columns.
    template <bool WHOLE>
    __device__ __forceinline__ void add_piece(int piece, int slice, int slot, int slots) const {
        __shared__ float4 head_sum[WARPS][32];
        __shared__ int head_kind[WARPS];
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const Columns<WHOLE> columns(slice, lane, c);
        const int begin = piece * PIECE + warp * 32, here = min(32, places - begin);
        int rows, id;
        look_up(begin + lane, rows, id);
        // The ids beside this warp's places: lane 0 has the one before, lane 31 the one behind.
        int beside = -1;
        if (lane == 0) beside = id_at(begin - 1);
        if (lane == 31) beside = id_at(begin + 32);
        const int before = __shfl_sync(ALL, beside, 0), behind = __shfl_sync(ALL, beside, 31);

        Head kind = NONE;
        // A run that begins here and goes on behind: its id and its sum so far.
        int open = -1;
        float4 open_sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
        for (int from = 0; from < here;) {
            // A run is contiguous: it goes on up to the first place of another id.
            const int run = __shfl_sync(ALL, id, from);
            const unsigned others = __ballot_sync(ALL, id != run) >> from;
            const int end = others == 0 ? 32 : from + __ffs(others) - 1;
            const bool is_head = from == 0 && before == run, goes_on = end == 32 && behind == run;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (!is_head && !goes_on) sum = columns.load(to(run));
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
            if (is_head) {
                kind = goes_on ? GOES_ON : ENDS;
                head_sum[warp][lane] = sum;
            } else if (goes_on) {
                open = run;
                open_sum = sum;
            } else {
                columns.store(to(run), sum);
            }
            from = end;
        }
        if (lane == 0) head_kind[warp] = kind;
        __syncthreads();
        // A run that goes on takes the heads of the warps behind, as far as they are of it. A first warp may have two: what the piece begins
        // with, and one of its own.
        const auto with_heads = [&](float4 sum, int from) {
#pragma unroll 1
            for (int w = from; w < WARPS && head_kind[w] != NONE; ++w) {
                sum = sum + head_sum[w][lane];
                if (head_kind[w] == ENDS) break;
            }
            return sum;
        };
        if (warp == 0 && kind != NONE) store4(head(piece, slot, slots), with_heads(make_float4(0.0f, 0.0f, 0.0f, 0.0f), 0));
        if (open != -1) columns.store(to(open), columns.load(to(open)) + with_heads(open_sum, warp + 1));
    }

    // Adds the heads of the pieces behind to the run that begins in `piece` and goes on, if there is one.
    template <bool WHOLE>
    __device__ __forceinline__ void add_heads(int piece, int slice, int slot, int slots) const {
        __shared__ float4 parts[WARPS][32];
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        const int next = piece + 1, run = id_at(next * PIECE);
        if (run == -1 || id_at(next * PIECE - 1) != run || id_at(piece * PIECE - 1) == run) return;
        // It ends with the first piece that begins with another id.
        int last = next;
#pragma unroll 1
        while (true) {
            const int64_t place = static_cast<int64_t>(last + 1 + lane) * PIECE;
            const unsigned others = __ballot_sync(ALL, place >= places || id_at(static_cast<int>(place)) != run);
            if (others != 0) {
                last += __ffs(others) - 1;
                break;
            }
            last += 32;
        }
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (int p = next + warp; p <= last; p += WARPS) sum = sum + load4(head(p, slot, slots));
        parts[warp][lane] = sum;
        __syncthreads();
        if (warp > 0) return;
        const Columns<WHOLE> columns(slice, lane, c);
#pragma unroll
        for (int w = 1; w < WARPS; ++w) sum = sum + parts[w][lane];
        columns.store(to(run), columns.load(to(run)) + sum);
    }

    __device__ __forceinline__ bool whole() const { return c % 4 == 0 && aligned16(dtable) && (reinterpret_cast<uintptr_t>(dout) & 7) == 0; }
};

// dtable[ids[n]] += dout[n] for all n. dtable (V, C) f32, dout (N, C), ids (N), order (N): 0..N sorted by (id, n), of which a launch takes
// `places` from its start, and the columns of `slots` slices from `first_slice` on.
//
// A block adds up PIECE places of the order in one slice of COLUMNS columns, a warp 32 of them, so that no warp has more to do for an id that is
// frequent. A run of equal ids within a warp's places is added to its row of the table. Of a longer one, a warp's part goes to the warp in whose
// places it begins; what a piece begins with goes to `heads` (pieces, slots, COLUMNS), from which embed_backward_heads takes it. So the
// order of a row's sum depends on the ids alone: ascending n within 32 places, then those sums in their order.
// Blocks: the slots of a piece one after another. Moves: reads 2·C bytes for each n, 4·C for each distinct id and each border of 256 places that
// its run crosses, and 8 to 9 for each n and slice; writes as much f32. When C is a multiple of 4, dtable 16-byte and dout 8-byte
// aligned, accesses are of 16 and 8 bytes; else of single elements.
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward(
    float* __restrict__ dtable, float* __restrict__ heads, const __nv_bfloat16* __restrict__ dout, const int* __restrict__ ids,
    const int* __restrict__ order, int n, int places, int v, int c, int first_slice, int slots
) {
    const Gradient gradient{dtable, heads, dout, ids, order, n, places, v, c};
    const int piece = blockIdx.x / slots, slot = blockIdx.x % slots;
    if (gradient.whole()) {
        gradient.add_piece<true>(piece, first_slice + slot, slot, slots);
    } else {
        gradient.add_piece<false>(piece, first_slice + slot, slot, slots);
    }
}

// The rest of embed_backward: each run that goes on behind its piece takes the heads of the pieces behind, a warp every eighth of them, the
// warps' sums in their order. Blocks as there, but for the last piece. Reads 4·COLUMNS bytes for each head and slice.
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward_heads(
    float* __restrict__ dtable, float* __restrict__ heads, const __nv_bfloat16* __restrict__ dout, const int* __restrict__ ids,
    const int* __restrict__ order, int n, int places, int v, int c, int first_slice, int slots
) {
    const Gradient gradient{dtable, heads, dout, ids, order, n, places, v, c};
    const int piece = blockIdx.x / slots, slot = blockIdx.x % slots;
    if (gradient.whole()) {
        gradient.add_heads<true>(piece, first_slice + slot, slot, slots);
    } else {
        gradient.add_heads<false>(piece, first_slice + slot, slot, slots);
    }
}
