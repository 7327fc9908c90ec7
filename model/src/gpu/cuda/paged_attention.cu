// Attention of new tokens over the paged cache, keys and values [pages, kv_heads, 16, d]; see ops/paged_attention/ for
// how a step is cut into items, and why a token's bits do not depend on the other tokens of its step. Pages hold numbers of T, or
// codes of E4M3 with scales (fp8_pages.cu writes those).
#include "paged.cuh"
#include "rope.cuh"

// Token blockIdx.x: rotates its queries in place, and puts its keys, rotated, and its values into their slot. Of each head of d
// the first 2 half numbers are rotated; half may be 0, and cos and sin null then.
template <class T>
__device__ void rope_pages(T* __restrict__ qkv, T* __restrict__ keys, T* __restrict__ values, const float* __restrict__ cos,
                           const float* __restrict__ sin, const uint32_t* __restrict__ position,
                           const uint32_t* __restrict__ slots, int heads, int kv_heads, int d, int half) {
    constexpr int N = Vec<T>::N;
    const uint32_t slot = slots[blockIdx.x];
    if (slot == NO_SLOT) return;
    const int rotated = heads + kv_heads, rest = d - 2 * half;
    const int64_t at = (int64_t)position[blockIdx.x] * half;
    T* row = qkv + (int64_t)blockIdx.x * (rotated + kv_heads) * d;
    // Where head 0 of this token's page and place is.
    const int64_t to = ((int64_t)(slot / PAGE) * kv_heads * PAGE + slot % PAGE) * d;
    const auto target = [&](int head) { return head < heads ? row + head * d : keys + to + (int64_t)(head - heads) * PAGE * d; };
    if (half % N == 0 && d % N == 0) {
        const int steps = half / N, rests = rest / N;
        for (int item = threadIdx.x; item < rotated * steps; item += blockDim.x) {
            const int head = item / steps, i = item % steps * N;
            Vec<T> a = load_vec(row + head * d + i), b = load_vec(row + head * d + half + i);
            rotate(a, b, cos + at + i, sin + at + i, 1.0f);
            store_vec(target(head) + i, a);
            store_vec(target(head) + half + i, b);
        }
        for (int item = threadIdx.x; item < kv_heads * rests; item += blockDim.x) {
            const int head = heads + item / rests, i = 2 * half + item % rests * N;
            store_vec(target(head) + i, load_vec(row + head * d + i));
        }
        for (int item = threadIdx.x; item < kv_heads * (d / N); item += blockDim.x) {
            const int head = item / (d / N), i = item % (d / N) * N;
            store_vec(values + to + (int64_t)head * PAGE * d + i, load_vec(row + (rotated + head) * d + i));
        }
    } else {
        for (int item = threadIdx.x; item < rotated * half; item += blockDim.x) {
            const int head = item / half, i = item % half;
            const float c = cos[at + i], s = sin[at + i];
            const float u = to_float(row[head * d + i]), v = to_float(row[head * d + half + i]);
            target(head)[i] = of_float<T>(u * c - v * s);
            target(head)[half + i] = of_float<T>(v * c + u * s);
        }
        for (int item = threadIdx.x; item < kv_heads * rest; item += blockDim.x) {
            const int head = heads + item / rest, i = 2 * half + item % rest;
            target(head)[i] = row[head * d + i];
        }
        for (int item = threadIdx.x; item < kv_heads * d; item += blockDim.x)
            values[to + (int64_t)(item / d) * PAGE * d + item % d] = row[rotated * d + item];
    }
}

FOR_BOTH(rope_pages, rope_pages,
         (bf16 * qkv, bf16* keys, bf16* values, const float* cos, const float* sin, const uint32_t* position,
          const uint32_t* slots, int heads, int kv_heads, int d, int half),
         (float* qkv, float* keys, float* values, const float* cos, const float* sin, const uint32_t* position,
          const uint32_t* slots, int heads, int kv_heads, int d, int half),
         (qkv, keys, values, cos, sin, position, slots, heads, kv_heads, d, half))

// One number of a row's weighted values in one part, the greatest score there, and the sum of the weights.
struct PartNumber {
    float x, most, total;
};

__device__ __forceinline__ PartNumber part_number(const PagedStep& s, int64_t row, int c) {
    return {__ldg(s.parts + row * s.d + c), __ldg(s.stats + row * 2), __ldg(s.stats + row * 2 + 1)};
}

// What `own` becomes with the `before` parts that come before it, whose first one is known: in the order and by the operations of
// `join_parts`. `row` is the row of the first one, c the column.
template <class T>
__device__ __forceinline__ float join_own(const PagedStep& s, int64_t row, int before, int c, const PartNumber& first,
                                          const PartNumber& own) {
    float most = fmaxf(first.most, own.most), total = 0, x = 0;
#pragma unroll 1
    for (int part = 1; part < before; part++) most = fmaxf(most, __ldg(s.stats + (row + (int64_t)part * s.heads) * 2));
    const auto add = [&](const PartNumber& part) {
        const float weight = exp_of<T>(part.most - most);
        total += part.total * weight;
        x += part.x * weight;
    };
    add(first);
#pragma unroll 1
    for (int part = 1; part < before; part++) add(part_number(s, row + (int64_t)part * s.heads, c));
    add(own);
    return x / total;
}

// Key heads of a block whose tokens have so many tiles of keys: as many as its warps have a tile for, all query heads in one tile.
template <int WARPS, int ROWS>
__device__ __forceinline__ int heads_abreast(int tiles, int repeat, int kv_heads) {
    for (int abreast = WARPS; abreast > 1; abreast /= 2)
        if (tiles * abreast <= WARPS && repeat * abreast <= ROWS && kv_heads % abreast == 0) return abreast;
    return 1;
}

// One block to a token and a key head, or to several key heads where the token's own keys are few: their query heads (sixteen at most
// at a time) are the rows of one tile, so that keys and values are read once for all of them. Of a key head the warps take the
// tiles of S keys in turn, each with a running maximum of its own, and are joined in their order at the end; parts that were made
// before, of keys that come before, are joined then too. A warp's next keys are on their way while it weighs values, its next
// values while it multiplies keys.
template <class T, class Pages, int D, int S, int WARPS>
__device__ void attend_pages(T* __restrict__ out, const T* __restrict__ qkv, const typename Pages::Number* __restrict__ keys,
                             const typename Pages::Number* __restrict__ values, const Pages pages_of,
                             const PageItem* __restrict__ items, const PagedStep step) {
    typedef typename Pages::Number Number;
    constexpr int ROWS = 16, STRIDE = Tile<T, D>::STRIDE, TILE = Pages::template TILE<D, S>;
    static_assert(ROWS * D * 4 <= 2 * TILE * (int)sizeof(Number), "a warp's part takes the place of its tiles");
    DYNAMIC_SHARED(dynamic);
    const PageItem item = items[blockIdx.x];
    if (item.count == 0) return;
    const int heads = step.heads, d = step.d, repeat = heads / step.kv_heads, tiles = (item.to - item.from + S - 1) / S;
    const int abreast = heads_abreast<WARPS, ROWS>(tiles, repeat, step.kv_heads), first_kv_head = blockIdx.y * abreast;
    if (first_kv_head >= step.kv_heads) return;
    // This warp's key head, its place among the warps of that, and their number.
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, turns = WARPS / abreast, turn = warp % turns;
    const int kv_head = first_kv_head + warp / turns, token = item.token;
    T* q = reinterpret_cast<T*>(dynamic);
    Number* tile_room = reinterpret_cast<Number*>(q + ROWS * STRIDE);
    Number* k = tile_room + warp * 2 * TILE;
    Number* v = k + TILE;
    float* largests = reinterpret_cast<float*>(tile_room + WARPS * 2 * TILE);  // [WARPS, ROWS]
    float* sums = largests + WARPS * ROWS;
    const int from = step.window ? max(item.from, oldest_of(step, step.position[token])) : item.from;
    const uint32_t* table = step.tables + item.table;
    const int first_part = step.part_start[token];
    // Tiles are counted from the item's first key, so that a tile's warp depends on the token's position alone. Those from `begin`
    // on have keys that are seen.
    const int begin = (from - item.from) / S, end = from < item.to ? tiles : begin;
    const int first_tile = begin + ((turn - begin) & (turns - 1));
    const auto load_keys = [&](const PagedTile<Number, D, S, WARP>& place, int tile) {
        const int j = item.from + tile * S;
        pages_of.load_keys(place, k, keys, {step, table, kv_head, j, item.to - j}, lane);
    };
    const auto load_values = [&](const PagedTile<Number, D, S, WARP>& place, int tile) {
        const int j = item.from + tile * S;
        pages_of.load_values(place, v, values, {step, table, kv_head, j, item.to - j}, lane);
    };
    for (int first = 0; first < repeat; first += ROWS) {
        // Rows of the block, and of each of its key heads.
        const int live = min(ROWS, repeat - first), rows = live * abreast, head = first_kv_head * repeat + first;
        PagedTile<Number, D, S, WARP> place;
        place.find(table, item.from + first_tile * S, first_tile < end ? item.to : 0, lane);
        __syncthreads();
        const auto load_queries = [&] {
            Pages::template load_queries<D, ROWS>(q, qkv + ((int64_t)token * (heads + 2 * step.kv_heads) + head) * d, d, rows,
                                                  [](int r) { return (int64_t)r; });
        };
        if (Pages::COPIES_QUERIES) load_queries();
        if (first_tile < end) load_keys(place, first_tile);
        cp_async_commit();
        if (first_tile < end) load_values(place, first_tile);
        cp_async_commit();
        if (!Pages::COPIES_QUERIES) load_queries();
        float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        clear(acc);
        cp_async_wait<1>();
        __syncthreads();
        for (int tile = first_tile; tile < end; tile += turns) {
            const int j = item.from + tile * S, count = min(S, item.to - j), next = tile + turns;
            place.find(table, item.from + next * S, next < end ? item.to : 0, lane);
            float p[S / 8][4];
            clear(p);
            product_transposed<D, S>(p, q, k);
            Pages::template scale<D, S>(p, k, count);
            // The warp has read its keys.
            __syncwarp();
            if (next < end) load_keys(place, next);
            cp_async_commit();
            softmax_step<T, S>(p, acc, largest, sum, [&](float product, int, int column) {
                const int key = j + column;
                return key >= from && key < item.to ? paged_score<T>(step, product) : -INFINITY;
            });
            cp_async_wait<1>();
            __syncwarp();
            Pages::template scale<D, S>(p, v, count);
            Pages::template weighted<D, S>(acc, p, v);
            // And its values.
            __syncwarp();
            if (next < end) load_values(place, next);
            cp_async_commit();
            cp_async_wait<1>();
            __syncwarp();
        }
        cp_async_wait<0>();
        __syncwarp();
        float* part = reinterpret_cast<float*>(k);  // [ROWS, D]
        join_sums(sum);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = lane / 4 + half * 8;
            if (lane % 4 == 0) {
                largests[warp * ROWS + r] = largest[half];
                sums[warp * ROWS + r] = sum[half];
            }
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
                part[r * D + Pages::column(c)] = acc[c][half * 2];
                part[r * D + Pages::column(c) + Pages::STEP] = acc[c][half * 2 + 1];
            }
        }
        __syncthreads();
        // Column c of row r, of all warps of its key head.
        const auto joined = [&](int r, int c) {
            const int its_first = r / live * turns;
            PartNumber own = {0, -INFINITY, 0};
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                if (w < turns) own.most = fmaxf(own.most, largests[(its_first + w) * ROWS + r]);
            const float shift = own.most == -INFINITY ? 0.0f : own.most;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                if (w >= turns) break;
                const int at = (its_first + w) * ROWS + r;
                const float weight = exp_of<T>(largests[at] - shift);
                own.total += sums[at] * weight;
                own.x += reinterpret_cast<const float*>(tile_room + (its_first + w) * 2 * TILE)[r * D + c] * weight;
            }
            return own;
        };
        const int before = -1 - item.part;
        const int64_t row_of_out = (int64_t)token * heads + head;
        // The row of the first part, or of this one.
        const int64_t row_of_part = (int64_t)(first_part + max(0, item.part)) * heads + head;
        if (before > 0) {
            // So many numbers of the first part are on their way at a time.
            constexpr int AHEAD = 4, STEP = WARPS * WARP;
            for (int begin = threadIdx.x; begin < rows * D; begin += AHEAD * STEP) {
                PartNumber number[AHEAD];
#pragma unroll
                for (int e = 0; e < AHEAD; e++) {
                    const int i = begin + e * STEP;
                    number[e] = part_number(step, row_of_part + min(i / D, rows - 1), min(i % D, d - 1));
                }
#pragma unroll
                for (int e = 0; e < AHEAD; e++) {
                    const int i = begin + e * STEP, r = i / D, c = i % D;
                    if (r >= rows || c >= d) continue;
                    out[(row_of_out + r) * d + c] =
                        of_float<T>(join_own<T>(step, row_of_part + r, before, c, number[e], joined(r, c)));
                }
            }
            continue;
        }
        for (int i = threadIdx.x; i < rows * D; i += WARPS * WARP) {
            const int r = i / D, c = i % D;
            if (c >= d) continue;
            const PartNumber own = joined(r, c);
            if (before == 0) {
                out[(row_of_out + r) * d + c] = of_float<T>(own.x / own.total);
            } else {
                step.parts[(row_of_part + r) * d + c] = own.x;
                if (c == 0) {
                    step.stats[(row_of_part + r) * 2] = own.most;
                    step.stats[(row_of_part + r) * 2 + 1] = own.total;
                }
            }
        }
    }
}

// Token tokens[blockIdx.x], whose own keys have several parts: all its parts become its result, in their order.
template <class T>
__device__ void join_parts(T* __restrict__ out, const float* __restrict__ parts, const float* __restrict__ stats,
                           const uint32_t* __restrict__ part_start, const uint32_t* __restrict__ tokens, int heads, int d) {
    const uint32_t token = tokens[blockIdx.x];
    if (token == NO_SLOT) return;
    const int begin = part_start[token], end = part_start[token + 1];
    for (int i = threadIdx.x; i < heads * d; i += blockDim.x) {
        const int head = i / d;
        float most = -INFINITY, total = 0, x = 0;
        for (int part = begin; part < end; part++) most = fmaxf(most, stats[((int64_t)part * heads + head) * 2]);
        for (int part = begin; part < end; part++) {
            const int64_t at = (int64_t)part * heads + head;
            const float weight = exp_of<T>(stats[at * 2] - most);
            total += stats[at * 2 + 1] * weight;
            x += parts[at * d + i % d] * weight;
        }
        out[(int64_t)token * heads * d + i] = of_float<T>(x / total);
    }
}

FOR_BOTH(join_parts, join_parts,
         (bf16 * out, const float* parts, const float* stats, const uint32_t* part_start, const uint32_t* tokens, int heads, int d),
         (float* out, const float* parts, const float* stats, const uint32_t* part_start, const uint32_t* tokens, int heads, int d),
         (out, parts, stats, part_start, tokens, heads, d))

#define ATTEND_PAGES(name, T, D, S, WARPS)                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND(attend_pages_##name, T, (attend_pages<T, PlainPages<T>, D, S, WARPS>))
#define ATTEND_FP8_PAGES(name, T, D, S, WARPS)                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND_FP8(attend_fp8_pages_##name, T, (attend_pages<T, Fp8Pages<T>, D, S, WARPS>))

// S and WARPS as `OwnForm::of` in ops/paged_attention/gpu.rs has them.
ATTEND_PAGES(bf16_64, bf16, 64, 32, 4)
ATTEND_PAGES(bf16_128, bf16, 128, 32, 4)
ATTEND_PAGES(bf16_256, bf16, 256, 16, 4)
ATTEND_PAGES(f32_64, float, 64, 16, 2)
ATTEND_PAGES(f32_128, float, 128, 16, 2)
ATTEND_PAGES(f32_256, float, 256, 16, 2)

ATTEND_FP8_PAGES(bf16_64, bf16, 64, 32, 4)
ATTEND_FP8_PAGES(bf16_128, bf16, 128, 32, 4)
ATTEND_FP8_PAGES(bf16_256, bf16, 256, 32, 4)
ATTEND_FP8_PAGES(f32_64, float, 64, 32, 2)
ATTEND_FP8_PAGES(f32_128, float, 128, 32, 2)
ATTEND_FP8_PAGES(f32_256, float, 256, 32, 2)
