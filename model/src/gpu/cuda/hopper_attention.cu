// The forward of attention.cu by Hopper's asynchronous units, as FlashAttention-3 orders the work (Shah et al., arXiv 2407.08608):
// the same segments, prefixes, windows and caps, in bf16, for heads of 64, 128 and 256.
//
// A block has 128 queries of one head. One thread of its first warp group copies keys and values, 128 at a time (64 where a head has
// 256 numbers, for whose sums a warp group has registers then), into rings of two stages; the other two warp groups have 64 queries each and take turns at the products, so that one's exponentials are computed
// while the other's products run; within a group the values' product of one tile runs beside the softmax of the next. A tile's keys
// are of the prefix or of the segment itself, never of both. Rows of the box past them are other rows of the batch: their weight is
// exactly 0. A query's sums run over its tiles in their order.
#include "attention.cuh"
#include "hopper.cuh"

#define ATTENTION_ROWS 128
#define ATTENTION_STAGES 2

__device__ __forceinline__ constexpr int attention_keys(int head_dim) { return head_dim > 128 ? 64 : 128; }

// Keys that go together: rows of the batch from `row` on, at positions from `first` on, `count` of them.
struct KeyTile {
    int row, first, count;
};

// The tiles of keys at positions `oldest`..=`last`: those of the prefix, then the segment's own.
struct KeyTiles {
    int first_of_prefix, prefix_tiles, first_own, own_tiles;
};

template <int KEYS>
__device__ __forceinline__ KeyTiles key_tiles(const Segment& segment, int oldest, int last) {
    KeyTiles tiles;
    tiles.first_of_prefix = min(oldest, segment.position);
    tiles.prefix_tiles = (segment.position - tiles.first_of_prefix + KEYS - 1) / KEYS;
    tiles.first_own = max(oldest, segment.position);
    tiles.own_tiles = (last - tiles.first_own + KEYS) / KEYS;
    return tiles;
}

template <int KEYS>
__device__ __forceinline__ KeyTile key_tile(const KeyTiles& tiles, const Segment& segment, int last, int i) {
    const bool own = i >= tiles.prefix_tiles;
    const int first = own ? tiles.first_own + (i - tiles.prefix_tiles) * KEYS : tiles.first_of_prefix + i * KEYS;
    const int end = own ? last + 1 : segment.position;
    return {(int)key_row(segment, first), first, min(KEYS, end - first)};
}

#if HAS_HOPPER
// One step of the online softmax: products become weights, and the largest product and the sum of each of this thread's two rows go
// on. What earlier sums are to be multiplied by is left in `shrink`. `first` is the position of the thread's first row; `unit`
// brings a product (with a cap: a capped score) to a power of two.
template <int N>
__device__ __forceinline__ void softmax_tile(float (&p)[N][4], float (&largest)[2], float (&sum)[2], float (&shrink)[2],
                                             const AttentionShape& a, float unit, int first, const KeyTile& tile, bool all_seen) {
    const int lane = threadIdx.x % WARP;
    if (a.cap != 0) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) p[n][e] = a.cap * tanh_of<bf16>(p[n][e] * a.scale / a.cap);
    }
    if (!all_seen) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = n * 8 + lane % 4 * 2 + e % 2;
                if (key >= tile.count || !is_visible(a, first + e / 2 * 8, tile.first + key)) p[n][e] = -INFINITY;
            }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = largest[half];
#pragma unroll
        for (int n = 0; n < N; n++)
            // fmaxf passes over NaN; the exponential below does not.
            most = fmaxf(most, fmaxf(p[n][half * 2], p[n][half * 2 + 1]));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
        // A row that has seen no key yet keeps zeros.
        const float shift = most == -INFINITY ? 0.0f : most * unit;
        shrink[half] = fast_exp2(largest[half] * unit - shift);
        largest[half] = most;
        float total = 0;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                p[n][half * 2 + e] = fast_exp2(p[n][half * 2 + e] * unit - shift);
                total += p[n][half * 2 + e];
            }
        sum[half] = sum[half] * shrink[half] + total;
    }
}

template <int D>
__device__ __forceinline__ void hopper_attention_forward(bf16* __restrict__ out, float* __restrict__ log_sums,
                                                         const TensorMap& qkv, const Segment* __restrict__ segments,
                                                         const int* __restrict__ tiles, const AttentionShape a) {
    constexpr int KEYS = attention_keys(D), STAGES = ATTENTION_STAGES, N = KEYS / 8;
    constexpr int Q_BYTES = tile_bytes(ATTENTION_ROWS, D), KV_BYTES = tile_bytes(KEYS, D);
    DYNAMIC_SHARED(dynamic);
    unsigned char* q = first_tile(dynamic);
    unsigned char* k = q + Q_BYTES;
    unsigned char* v = k + STAGES * KV_BYTES;
    Barrier* q_full = reinterpret_cast<Barrier*>(v + STAGES * KV_BYTES);
    Barrier* k_full = q_full + 1;
    Barrier* k_empty = k_full + STAGES;
    Barrier* v_full = k_empty + STAGES;
    Barrier* v_empty = v_full + STAGES;

    const Segment segment = segments[tiles[blockIdx.x * 4]];
    const int offset = tiles[blockIdx.x * 4 + 1];
    const int head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
    const int live = min(ATTENTION_ROWS, segment.rows - offset);
    const int first = segment.position + offset, last = first + live - 1;
    const int oldest = a.window ? max(0, first + 1 - a.window) : 0;
    const KeyTiles keys = key_tiles<KEYS>(segment, oldest, last);
    const int count = keys.prefix_tiles + keys.own_tiles;

    if (threadIdx.x == 0) {
        prefetch_map(&qkv);
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(k_full + i, 1);
            barrier_init(v_full + i, 1);
            barrier_init(k_empty + i, 2 * WARP_GROUP / WARP);
            barrier_init(v_empty + i, 2 * WARP_GROUP / WARP);
        }
        barriers_ready();
    }
    __syncthreads();
    const int group = threadIdx.x / WARP_GROUP;
    if (group == 0) {
        give_registers<24>();
        if (threadIdx.x == 0) {
            const int key_column = (a.heads + kv_head) * D, value_column = key_column + a.kv_heads * D;
            barrier_expect(q_full, Q_BYTES);
            for (int r = 0; r < ATTENTION_ROWS; r += KEYS)
                copy_columns(q + r * SWIZZLED_ROW_BYTES, &qkv, q_full, ATTENTION_ROWS, segment.row + offset + r, head * D, D);
            for (int i = 0; i < count; i++) {
                const int stage = stage_of<STAGES>(i), parity = parity_of<STAGES>(i) ^ 1;
                const int row = key_tile<KEYS>(keys, segment, last, i).row;
                barrier_wait(k_empty + stage, parity);
                barrier_expect(k_full + stage, KV_BYTES);
                copy_columns(k + stage * KV_BYTES, &qkv, k_full + stage, KEYS, row, key_column, D);
                barrier_wait(v_empty + stage, parity);
                barrier_expect(v_full + stage, KV_BYTES);
                copy_columns(v + stage * KV_BYTES, &qkv, v_full + stage, KEYS, row, value_column, D);
            }
        }
        return;
    }
    take_registers<240>();
    const int part = group - 1, lane = threadIdx.x % WARP, warp = threadIdx.x % WARP_GROUP / WARP;
    const int first_of_group = first + part * 64;
    const int first_of_thread = first_of_group + warp * 16 + lane / 4;
    const float unit = (a.cap == 0 ? a.scale : 1.0f) * LOG2_E;
    // Barrier 1 + part opens this group's turn at the products. The first turn is group 0's.
    const auto turn = [&] { group_sync(1 + part, 2 * WARP_GROUP); };
    const auto pass = [&](int i) {
        if (part == 0 || i + 1 < count) group_arrive(2 - part, 2 * WARP_GROUP);
    };
    if (part == 1) group_arrive(1, 2 * WARP_GROUP);

    float o[D / 8][4] = {}, p[N][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];
    uint32_t weights[N / 2][4];
    const auto multiply_keys = [&](int stage) {
#pragma unroll
        for (int i = 0; i < D; i += 16)
            wgmma<KEYS, 0, 0>(p, along_rows(q, ATTENTION_ROWS, part * 64, i),
                                        along_rows(k + stage * KV_BYTES, KEYS, 0, i), i > 0);
        wgmma_commit();
    };
    const auto multiply_values = [&](int stage) {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            wgmma_from_registers<D, 1>(o, weights[i], across_rows(v + stage * KV_BYTES, KEYS, 0, i * 16), 1);
        wgmma_commit();
    };
    const auto release = [&](Barrier* empty) {
        if (lane == 0) barrier_arrive(empty);
    };
    const auto softmax = [&](int i) {
        const KeyTile tile = key_tile<KEYS>(keys, segment, last, i);
        const bool all_seen = tile.count == KEYS && tile.first + KEYS - 1 <= first_of_group &&
                              (a.window == 0 || tile.first > first_of_group + 63 - a.window);
        softmax_tile(p, largest, sum, shrink, a, unit, first_of_thread, tile, all_seen);
    };

    barrier_wait(q_full, 0);
    barrier_wait(k_full, 0);
    turn();
    wgmma_fence();
    multiply_keys(0);
    pass(0);
    wgmma_wait<0>();
    wgmma_settled(p);
    release(k_empty);
    softmax(0);
    pack_operand(weights, p);
    for (int i = 1; i < count; i++) {
        const int stage = stage_of<STAGES>(i), before = stage_of<STAGES>(i - 1);
        barrier_wait(k_full + stage, parity_of<STAGES>(i));
        barrier_wait(v_full + before, parity_of<STAGES>(i - 1));
        turn();
        wgmma_ready(o);
        wgmma_ready(weights);
        wgmma_fence();
        multiply_keys(stage);
        multiply_values(before);
        pass(i);
        wgmma_wait<1>();
        wgmma_settled(p);
        release(k_empty + stage);
        softmax(i);
        wgmma_wait<0>();
        wgmma_settled(o);
        release(v_empty + before);
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[c][e] *= shrink[e / 2];
        pack_operand(weights, p);
    }
    const int stage = stage_of<STAGES>(count - 1);
    barrier_wait(v_full + stage, parity_of<STAGES>(count - 1));
    wgmma_ready(o);
    wgmma_ready(weights);
    wgmma_fence();
    multiply_values(stage);
    wgmma_wait<0>();
    wgmma_settled(o);

    join_sums(sum);
    divide(o, sum);
    const int64_t row = (int64_t)segment.row + offset;
    const auto live_row = [&](int half) {
        const int r = part * 64 + warp * 16 + lane / 4 + half * 8;
        return r < live ? r : -1;
    };
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = live_row(half);
        if (lane % 4 == 0 && r >= 0)
            log_sums[(row + r) * a.heads + head] = largest[half] * unit * LN_2 + logf(sum[half]);
    }
    store_wide(o, D, [&](int half) -> bf16* {
        const int r = live_row(half);
        return r < 0 ? nullptr : out + ((row + r) * a.heads + head) * D;
    });
}
#define HOPPER_FORWARD_BODY(D) \
    hopper_attention_forward<D>(out, log_sums, qkv, segments, tiles, AttentionShape{heads, kv_heads, d, window, scale, cap})
#else
#define HOPPER_FORWARD_BODY(D) __trap()
#endif

// As ops/attention/hopper.rs has it.
#define HOPPER_FORWARD(D)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(3 * WARP_GROUP, 1)                                                        \
        hopper_attention_forward_##D(bf16* out, float* log_sums, TENSOR_MAP qkv, const Segment* segments, const int* tiles, \
                                     int heads, int kv_heads, int d, int window, float scale, float cap) {                 \
        HOPPER_FORWARD_BODY(D);                                                                                            \
    }
HOPPER_FORWARD(64)
HOPPER_FORWARD(128)
HOPPER_FORWARD(256)
