// The backward of attention.cu by Hopper's asynchronous units, in five products: for heads of 64 and 128, in bf16.
//
// A block owns 128 keys of one key head, and all queries that see them stream by, ROWS at a time. Of each tile of queries and keys
// it computes Sᵀ = K Qᵀ and dPᵀ = V dOᵀ, from them Pᵀ and dSᵀ, and adds to dV += Pᵀ dO and dK += dSᵀ Q, which stay in registers,
// and to dQ += dS K, which blocks share. No addition of floats is left to chance: for each tile of queries a count says whose turn
// it is, from the keys at the queries themselves down to the first own ones, then the prefix from its end to its beginning; in this
// order a block that starts at its own diagonal finds its turn come when it gets there. Blocks take their work in the order of a
// ticket, so that whoever is waited for has begun: the ticket decides who computes, never what.
//
// First warp group: one warp copies queries and gradients, with their sums; one thread of each of two others adds to dQ in device
// memory (f32, in the order of the products' registers, which hopper_attention_queries turns into rows). The other two warp groups
// have 64 keys each.
#include "attention.cuh"
#include "hopper.cuh"

#define BACKWARD_KEYS 128
#define BACKWARD_STAGES 2
// Numbers of dQ that a warp group adds at a time: 64 × 64.
#define PART_NUMBERS 4096

// Rows of queries to a tile: as many as registers and shared memory allow.
template <int D>
__device__ __forceinline__ constexpr int backward_rows() {
    return D == 64 ? 128 : 64;
}

// How many tiles of keys add to a tile of queries, and the place of one of them among these: for queries `first`.. of a segment,
// `queries` of them, and the keys from `offset` on of the segment itself (`own`) or of its prefix.
struct QueryTurn {
    int place, count;
};

__device__ __forceinline__ QueryTurn query_turn(const Segment& asking, int first, int queries, int window, bool own, int offset) {
    // The first key that the first query sees: a position, and the same as a row of the segment.
    const int seen = window ? max(0, asking.position + first + 1 - window) : 0;
    const int lowest = max(0, seen - asking.position) / BACKWARD_KEYS, highest = (first + queries - 1) / BACKWARD_KEYS;
    const int own_count = highest - lowest + 1;
    const int prefix_count =
        seen < asking.position ? (asking.position - 1) / BACKWARD_KEYS - seen / BACKWARD_KEYS + 1 : 0;
    const int place = own ? highest - offset / BACKWARD_KEYS
                          : own_count + (asking.position - 1) / BACKWARD_KEYS - offset / BACKWARD_KEYS;
    return {place, own_count + prefix_count};
}

#if HAS_HOPPER
// One tile of queries that a block goes over.
struct QueryStep {
    int index, head, segment, first, queries;
    bool own;
};

// f(step) for every tile of queries that sees the keys, in the order of heads, segments and rows.
template <int ROWS, class F>
__device__ __forceinline__ void for_queries(const Segment* segments, const int* tile, int last_key, int kv_head,
                                            const AttentionShape& a, F f) {
    const int repeat = a.heads / a.kv_heads;
    QueryStep step;
    step.index = 0;
    for (step.head = kv_head * repeat; step.head < (kv_head + 1) * repeat; step.head++) {
        for (int from = tile[2] - 1; from < tile[3]; from++) {
            // The owner itself comes first.
            step.own = from < tile[2];
            step.segment = step.own ? tile[0] : from;
            const int rows = segments[step.segment].rows, position = segments[step.segment].position;
            for (step.first = step.own ? tile[1] : 0; step.first < rows; step.first += ROWS) {
                if (a.window && position + step.first - a.window >= last_key) break;
                step.queries = min(ROWS, rows - step.first);
                f(step);
                step.index++;
            }
        }
    }
}

template <int D, bool CAPPED>
__device__ __forceinline__ void hopper_attention_backward(bf16* __restrict__ d_qkv, float* __restrict__ dq_sums,
                                                          int* __restrict__ counts, const TensorMap& key_map,
                                                          const TensorMap& query_map, const TensorMap& gradient_map,
                                                          const float* __restrict__ log_sums, const float* __restrict__ delta,
                                                          const Segment* __restrict__ segments,
                                                          const int* __restrict__ first_tiles, const int* __restrict__ tiles,
                                                          int tile_count, const AttentionShape a) {
    constexpr int ROWS = backward_rows<D>(), STAGES = BACKWARD_STAGES, KEYS = BACKWARD_KEYS;
    constexpr int K_BYTES = tile_bytes(KEYS, D), Q_BYTES = tile_bytes(ROWS, D), DS_BYTES = tile_bytes(KEYS, ROWS);
    DYNAMIC_SHARED(dynamic);
    unsigned char* k = first_tile(dynamic);
    unsigned char* v = k + K_BYTES;
    unsigned char* q = v + K_BYTES;
    unsigned char* d_o = q + STAGES * Q_BYTES;
    unsigned char* ds = d_o + STAGES * Q_BYTES;
    float* dq_room = reinterpret_cast<float*>(ds + STAGES * DS_BYTES);
    float* sums = dq_room + 2 * PART_NUMBERS;
    float* deltas = sums + STAGES * ROWS;
    Barrier* kv_full = reinterpret_cast<Barrier*>(deltas + STAGES * ROWS);
    Barrier* full = kv_full + 1;
    Barrier* empty = full + STAGES;
    Barrier* dq_full = empty + STAGES;
    Barrier* dq_empty = dq_full + 2;
    int* ticket = reinterpret_cast<int*>(dq_empty + 2);

    if (threadIdx.x == 0) {
        *ticket = atomicAdd(counts, 1);
        prefetch_map(&key_map);
        prefetch_map(&query_map);
        prefetch_map(&gradient_map);
        barrier_init(kv_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, WARP);
            barrier_init(empty + i, 2 * WARP_GROUP / WARP);
        }
        for (int part = 0; part < 2; part++) {
            barrier_init(dq_full + part, WARP_GROUP / WARP);
            barrier_init(dq_empty + part, 1);
        }
        barriers_ready();
    }
    __syncthreads();
    const int* tile = tiles + *ticket % tile_count * 4;
    const int kv_head = *ticket / tile_count, offset = tile[1];
    const Segment segment = segments[tile[0]];
    const int live = min(KEYS, segment.rows - offset);
    const int first_key = segment.position + offset, last_key = first_key + live - 1;
    const int64_t width = (int64_t)(a.heads + 2 * a.kv_heads) * D;
    const int key_column = (a.heads + kv_head) * D, value_column = key_column + a.kv_heads * D;
    const int group = threadIdx.x / WARP_GROUP, lane = threadIdx.x % WARP;
    // Of a tile of queries and a head: dQ's numbers, and the counts of their two parts after the ticket.
    const auto of_queries = [&](const QueryStep& step) {
        return (int64_t)(first_tiles[step.segment] + step.first / ROWS) * a.heads + step.head;
    };

    if (group == 0) {
        give_registers<24>();
        const int warp = threadIdx.x / WARP;
        if (warp == 0) {
            if (lane == 0) {
                barrier_expect(kv_full, 2 * K_BYTES);
                copy_columns(k, &key_map, kv_full, KEYS, segment.row + offset, key_column, D);
                copy_columns(v, &key_map, kv_full, KEYS, segment.row + offset, value_column, D);
            }
            for_queries<ROWS>(segments, tile, last_key, kv_head, a, [&](const QueryStep& step) {
                const int stage = stage_of<STAGES>(step.index);
                const int row = segments[step.segment].row + step.first;
                barrier_wait(empty + stage, parity_of<STAGES>(step.index) ^ 1);
                for (int r = lane; r < ROWS; r += WARP) {
                    const int64_t at = (int64_t)(row + r) * a.heads + step.head;
                    sums[stage * ROWS + r] = r < step.queries ? log_sums[at] : 0;
                    deltas[stage * ROWS + r] = r < step.queries ? delta[at] : 0;
                }
                if (lane == 0) {
                    barrier_expect(full + stage, 2 * Q_BYTES);
                    copy_columns(q + stage * Q_BYTES, &query_map, full + stage, ROWS, row, step.head * D, D);
                    copy_columns(d_o + stage * Q_BYTES, &gradient_map, full + stage, ROWS, row, step.head * D, D);
                } else {
                    barrier_arrive(full + stage);
                }
            });
        } else if (warp < 3 && lane == 0) {
            const int part = warp - 1;
            for_queries<ROWS>(segments, tile, last_key, kv_head, a, [&](const QueryStep& step) {
                const QueryTurn turn =
                    query_turn(segments[step.segment], step.first, step.queries, a.window, step.own, offset);
                float* to = dq_sums + (of_queries(step) * 2 + part) * PART_NUMBERS;
                int* count = counts + 1 + of_queries(step) * 2 + part;
                barrier_wait(dq_full + part, step.index % 2);
                if (turn.place == 0) {
                    bulk_store(to, dq_room + part * PART_NUMBERS, PART_NUMBERS * 4);
                } else {
                    wait_for_count(count, turn.place);
                    bulk_add(to, dq_room + part * PART_NUMBERS, PART_NUMBERS * 4);
                }
                bulk_commit();
                bulk_wait_read();
                barrier_arrive(dq_empty + part);
                bulk_wait();
                if (turn.place + 1 < turn.count) publish_count(count, turn.place + 1);
            });
        }
        return;
    }
    take_registers<240>();
    const int part = group - 1, warp = threadIdx.x % WARP_GROUP / WARP;
    const int row_of_thread = part * 64 + warp * 16 + lane / 4;
    const float unit = (CAPPED ? 1.0f : a.scale) * LOG2_E;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    barrier_wait(kv_full, 0);
    for_queries<ROWS>(segments, tile, last_key, kv_head, a, [&](const QueryStep& step) {
        const int stage = stage_of<STAGES>(step.index);
        const unsigned char* q_tile = q + stage * Q_BYTES;
        const unsigned char* d_o_tile = d_o + stage * Q_BYTES;
        unsigned char* ds_tile = ds + stage * DS_BYTES;
        const int first_query = segments[step.segment].position + step.first;
        uint32_t weights[ROWS / 16][4], slopes[ROWS / 16][4];
        {
            float p[ROWS / 8][4], dp[ROWS / 8][4];
            barrier_wait(full + stage, parity_of<STAGES>(step.index));
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < D; i += 16)
                wgmma<ROWS, 0, 0>(p, along_rows(k, KEYS, part * 64, i), along_rows(q_tile, ROWS, 0, i), i > 0);
            wgmma_commit();
#pragma unroll
            for (int i = 0; i < D; i += 16)
                wgmma<ROWS, 0, 0>(dp, along_rows(v, KEYS, part * 64, i), along_rows(d_o_tile, ROWS, 0, i), i > 0);
            wgmma_commit();
            wgmma_wait<1>();
            wgmma_settled(p);
            const bool all_seen = live == KEYS && step.queries == ROWS && last_key <= first_query &&
                                  (a.window == 0 || first_key > first_query + ROWS - 1 - a.window);
            // The derivative of a score by its product, where it is not the same for all.
            float slope[CAPPED ? ROWS / 8 : 1][4];
            if (CAPPED) {
#pragma unroll
                for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const float t = tanh_of<bf16>(p[n][e] * a.scale / a.cap);
                        p[n][e] = a.cap * t;
                        slope[CAPPED ? n : 0][e] = (1.0f - t * t) * a.scale;
                    }
            }
#pragma unroll
            for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int column = n * 8 + lane % 4 * 2 + e % 2, r = row_of_thread + e / 2 * 8;
                    const float x = fast_exp2(p[n][e] * unit - sums[stage * ROWS + column] * LOG2_E);
                    const bool seen = all_seen || (r < live && column < step.queries &&
                                                   is_visible(a, first_query + column, first_key + r));
                    p[n][e] = seen ? x : 0;
                }
            pack_operand(weights, p);
            wgmma_wait<0>();
            wgmma_settled(dp);
#pragma unroll
            for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int column = n * 8 + lane % 4 * 2 + e % 2;
                    const float by_product = CAPPED ? slope[CAPPED ? n : 0][e] : a.scale;
                    // What no query of the tile sees may be anything.
                    dp[n][e] = p[n][e] == 0 ? 0 : p[n][e] * (dp[n][e] - deltas[stage * ROWS + column]) * by_product;
                }
            pack_operand(slopes, dp);
        }
        // dSᵀ to shared memory, a row of queries to each key. The products that read this room two tiles ago were waited for before
        // the barrier of the tile between.
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = row_of_thread + e % 2 * 8, column = i * 16 + lane % 4 * 2 + e / 2 * 8;
                store_for_products(swizzled_place(ds_tile, KEYS, row, column), slopes[i][e]);
            }
        fence_async();
        group_sync(3, 2 * WARP_GROUP);
        wgmma_ready(weights);
        wgmma_ready(slopes);
        wgmma_ready(dv);
        wgmma_ready(dk);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
            wgmma_from_registers<D, 1>(dv, weights[i], across_rows(d_o_tile, ROWS, 0, i * 16), 1);
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
            wgmma_from_registers<D, 1>(dk, slopes[i], across_rows(q_tile, ROWS, 0, i * 16), 1);
        wgmma_commit();
        // This group's 64 queries, or its 64 columns of all.
        float dq[8][4];
        const int queries = D == 64 ? part * 64 : 0, columns = D == 64 ? 0 : part * 64;
#pragma unroll
        for (int i = 0; i < KEYS; i += 16)
            wgmma<64, 1, 1>(dq, across_rows(ds_tile, KEYS, queries, i), across_rows(k, KEYS, columns, i), i > 0);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_settled(dv);
        wgmma_settled(dk);
        if (lane == 0) barrier_arrive(empty + stage);
        wgmma_wait<0>();
        wgmma_settled(dq);
        barrier_wait(dq_empty + part, step.index % 2 ^ 1);
#pragma unroll
        for (int i = 0; i < 8; i++)
            store_for_copies(dq_room + part * PART_NUMBERS + (i * WARP_GROUP + threadIdx.x % WARP_GROUP) * 4, dq[i]);
        fence_async();
        __syncwarp();
        if (lane == 0) barrier_arrive(dq_full + part);
    });
    const auto row_at = [&](int half, int column) -> bf16* {
        const int r = row_of_thread + half * 8;
        return r < live ? d_qkv + ((int64_t)segment.row + offset + r) * width + column : nullptr;
    };
    store_wide(dk, D, [&](int half) { return row_at(half, key_column); });
    store_wide(dv, D, [&](int half) { return row_at(half, value_column); });
}

// dQ's sums of one tile of queries and one head, from the order of registers to rows of bf16. One warp group to each part.
template <int D>
__device__ __forceinline__ void hopper_attention_queries(bf16* __restrict__ d_qkv, const float* __restrict__ dq_sums,
                                                         const Segment* __restrict__ segments, const int* __restrict__ tiles,
                                                         const AttentionShape a) {
    constexpr int ROWS = backward_rows<D>();
    const int part = threadIdx.x / WARP_GROUP, thread = threadIdx.x % WARP_GROUP, lane = thread % WARP;
    const Segment segment = segments[tiles[blockIdx.x * 4]];
    const int offset = tiles[blockIdx.x * 4 + 1], head = blockIdx.y;
    const int64_t width = (int64_t)(a.heads + 2 * a.kv_heads) * D;
    const float* from = dq_sums + (((int64_t)blockIdx.x * a.heads + head) * 2 + part) * PART_NUMBERS;
    float dq[8][4];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const Vec<float> four = load_vec(from + (i * WARP_GROUP + thread) * 4);
#pragma unroll
        for (int e = 0; e < 4; e++) dq[i][e] = four.at[e];
    }
    store_wide(dq, 64, [&](int half) -> bf16* {
        const int r = offset + (D == 64 ? part * 64 : 0) + thread / WARP * 16 + lane / 4 + half * 8;
        const int column = head * D + (D == 64 ? 0 : part * 64);
        return r < segment.rows && r < offset + ROWS ? d_qkv + ((int64_t)segment.row + r) * width + column : nullptr;
    });
}
#define HOPPER_BACKWARD_BODY(D, CAPPED)                                                                                \
    hopper_attention_backward<D, CAPPED>(d_qkv, dq_sums, counts, keys, queries, gradients, log_sums, delta, segments,  \
                                         first_tiles, tiles, tile_count,                                               \
                                         AttentionShape{heads, kv_heads, d, window, scale, cap})
#define HOPPER_QUERIES_BODY(D) \
    hopper_attention_queries<D>(d_qkv, dq_sums, segments, tiles, AttentionShape{heads, kv_heads, d, window, scale, cap})
#else
#define HOPPER_BACKWARD_BODY(D, CAPPED) __trap()
#define HOPPER_QUERIES_BODY(D) __trap()
#endif

// As ops/attention/hopper.rs has it.
#define HOPPER_BACKWARD(name, D, CAPPED)                                                                                    \
    extern "C" __global__ void __launch_bounds__(3 * WARP_GROUP, 1) hopper_attention_backward_##name(                       \
        bf16* d_qkv, float* dq_sums, int* counts, TENSOR_MAP keys, TENSOR_MAP queries, TENSOR_MAP gradients,                \
        const float* log_sums, const float* delta, const Segment* segments, const int* first_tiles, const int* tiles,       \
        int tile_count, int heads, int kv_heads, int d, int window, float scale, float cap) {                               \
        HOPPER_BACKWARD_BODY(D, CAPPED);                                                                                    \
    }
#define HOPPER_QUERIES(D)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(2 * WARP_GROUP)                                                            \
        hopper_attention_queries_##D(bf16* d_qkv, const float* dq_sums, const Segment* segments, const int* tiles,          \
                                     int heads, int kv_heads, int d, int window, float scale, float cap) {                  \
        HOPPER_QUERIES_BODY(D);                                                                                             \
    }
HOPPER_BACKWARD(64, 64, false)
HOPPER_BACKWARD(128, 128, false)
HOPPER_BACKWARD(64_capped, 64, true)
HOPPER_BACKWARD(128_capped, 128, true)
HOPPER_QUERIES(64)
HOPPER_QUERIES(128)
