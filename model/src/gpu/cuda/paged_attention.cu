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

// Page `from` of the keys (blockIdx.y 0) or the values (1) to page `to`; a page has `size` elements.
template <class T>
__device__ void copy_page(T* __restrict__ keys, T* __restrict__ values, int64_t from, int64_t to, int size) {
    T* cache = blockIdx.y ? values : keys;
    const int threads = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size / Vec<T>::N; i += threads)
        store_vec(cache + to * size + i * Vec<T>::N, load_vec(cache + from * size + i * Vec<T>::N));
}

FOR_BOTH(copy_page, copy_page, (bf16 * keys, bf16* values, int64_t from, int64_t to, int size),
         (float* keys, float* values, int64_t from, int64_t to, int size), (keys, values, from, to, size))

// One block to a token and a key head: its query heads (sixteen at most at a time) are the rows of one tile, so that keys and
// values are read once for all of them. Warps take the tiles of S keys in turn, each with a running maximum of its own, and are
// joined in their order at the end.
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
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    T* q = reinterpret_cast<T*>(dynamic);
    Number* tiles = reinterpret_cast<Number*>(q + ROWS * STRIDE);
    Number* k = tiles + warp * 2 * TILE;
    Number* v = k + TILE;
    float* largests = reinterpret_cast<float*>(tiles + WARPS * 2 * TILE);  // [WARPS, ROWS]
    float* sums = largests + WARPS * ROWS;
    const int token = item.token, kv_head = blockIdx.y, heads = step.heads, d = step.d, repeat = heads / step.kv_heads;
    const int oldest = oldest_of(step, step.position[token]), from = max(item.from, oldest);
    const uint32_t* pages = step.tables + step.table_start[token];
    for (int first = 0; first < repeat; first += ROWS) {
        const int live = min(ROWS, repeat - first), head = kv_head * repeat + first;
        __syncthreads();
        Pages::template load_queries<D, ROWS>(q, qkv + ((int64_t)token * (heads + 2 * step.kv_heads) + head) * d, d, live,
                                              [](int r) { return (int64_t)r; });
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        clear(acc);
        // Tiles are counted from the item's first key, so that a tile's warp depends on the token's position alone.
        for (int tile = warp; item.from + tile * S < item.to; tile += WARPS) {
            const int j = item.from + tile * S, count = min(S, item.to - j);
            if (j + count <= from) continue;
            const auto key_row = [&](int r) { return page_row(step, pages, kv_head, j + r); };
            // The warp has read its last tiles.
            __syncwarp();
            pages_of.template load_keys<D, S>(k, keys, d, count, key_row, lane, WARP);
            cp_async_commit();
            pages_of.template load_values<D, S>(v, values, d, count, key_row, lane, WARP);
            cp_async_commit();
            cp_async_wait<1>();
            __syncwarp();
            float p[S / 8][4];
            clear(p);
            product_transposed<D, S>(p, q, k);
            Pages::template scale<D, S>(p, k, count);
            softmax_step<T, S>(p, acc, largest, sum, [&](float product, int, int column) {
                const int key = j + column;
                return key >= from && key < item.to ? paged_score<T>(step, product) : -INFINITY;
            });
            cp_async_wait<0>();
            __syncwarp();
            Pages::template scale<D, S>(p, v, count);
            Pages::template weighted<D, S>(acc, p, v);
        }
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
        for (int i = threadIdx.x; i < live * d; i += blockDim.x) {
            const int r = i / d, c = i % d;
            float most = -INFINITY, total = 0, x = 0;
            for (int w = 0; w < WARPS; w++) most = fmaxf(most, largests[w * ROWS + r]);
            const float shift = most == -INFINITY ? 0.0f : most;
            for (int w = 0; w < WARPS; w++) {
                const float weight = exp_of<T>(largests[w * ROWS + r] - shift);
                total += sums[w * ROWS + r] * weight;
                x += reinterpret_cast<const float*>(tiles + w * 2 * TILE)[r * D + c] * weight;
            }
            if (item.part < 0) {
                out[((int64_t)token * heads + head + r) * d + c] = of_float<T>(x / total);
            } else {
                const int64_t at = (int64_t)(step.part_start[token] + item.part) * heads + head + r;
                step.parts[at * d + c] = x;
                if (c == 0) {
                    step.stats[at * 2] = most;
                    step.stats[at * 2 + 1] = total;
                }
            }
        }
    }
}

// One block to some tokens with common keys and a key head: pages that the candidates of a prompt share, or a prompt's own. Every
// query head of every token is a row; the keys stream by once for all of them.
template <class T, class Pages, int D, int WARPS, int S>
__device__ void attend_common_pages(T* __restrict__ out, const T* __restrict__ qkv,
                                    const typename Pages::Number* __restrict__ keys,
                                    const typename Pages::Number* __restrict__ values, const Pages pages_of,
                                    const PageItem* __restrict__ items, const PagedStep step) {
    typedef typename Pages::Number Number;
    constexpr int ROWS = WARPS * 16, STRIDE = Tile<T, D>::STRIDE;
    DYNAMIC_SHARED(dynamic);
    const PageItem item = items[blockIdx.x];
    if (item.count == 0) return;
    T* q = reinterpret_cast<T*>(dynamic);
    Number* k = reinterpret_cast<Number*>(q + ROWS * STRIDE);
    Number* v = k + Pages::template TILE<D, S>;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int kv_head = blockIdx.y, heads = step.heads, d = step.d, repeat = heads / step.kv_heads;
    const uint32_t* pages = step.tables + step.table_start[item.token];
    int begin = item.from;
    if (step.window) {
        int oldest = item.to;
        for (int i = 0; i < item.count; i++) oldest = min(oldest, oldest_of(step, step.position[item.token + i]));
        begin += max(0, oldest - item.from) / S * S;
    }
    for (int first = 0; first < repeat; first += ROWS) {
        const int together = min(ROWS, repeat - first), live = item.count * together;
        // In rows of d: those of `qkv`, of `out` and of the parts.
        const auto head_of = [&](int r) { return kv_head * repeat + first + r % together; };
        const auto query_row = [&](int r) {
            return (int64_t)(item.token + r / together) * (heads + 2 * step.kv_heads) + head_of(r);
        };
        int position[2], oldest[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = warp * 16 + lane / 4 + half * 8;
            position[half] = r < live ? (int)step.position[item.token + r / together] : -1;
            oldest[half] = oldest_of(step, position[half]);
        }
        const auto load_keys = [&](int j) {
            pages_of.template load_keys<D, S>(
                k, keys, d, item.to - j, [&](int r) { return page_row(step, pages, kv_head, j + r); }, threadIdx.x, blockDim.x);
        };
        const auto load_values = [&](int j) {
            pages_of.template load_values<D, S>(
                v, values, d, item.to - j, [&](int r) { return page_row(step, pages, kv_head, j + r); }, threadIdx.x, blockDim.x);
        };
        float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        clear(acc);
        __syncthreads();
        Pages::template load_queries<D, ROWS>(q, qkv, d, live, query_row);
        if (begin < item.to) load_keys(begin);
        cp_async_commit();
        for (int j = begin; j < item.to; j += S) {
            cp_async_wait<0>();
            __syncthreads();
            load_values(j);
            cp_async_commit();
            float p[S / 8][4];
            clear(p);
            product_transposed<D, S>(p, q + warp * 16 * STRIDE, k);
            Pages::template scale<D, S>(p, k, item.to - j);
            cp_async_wait<0>();
            __syncthreads();
            // All warps have read k: the next keys come while the values are used.
            if (j + S < item.to) load_keys(j + S);
            cp_async_commit();
            softmax_step<T, S>(p, acc, largest, sum, [&](float product, int half, int column) {
                const int key = j + column;
                return key >= oldest[half] && key <= position[half] && key < item.to ? paged_score<T>(step, product)
                                                                                     : -INFINITY;
            });
            Pages::template scale<D, S>(p, v, item.to - j);
            Pages::template weighted<D, S>(acc, p, v);
        }
        cp_async_wait<0>();
        join_sums(sum);
        if (item.part < 0) {
            divide(acc, sum);
            Pages::template store<T, D>(out, acc, d, warp * 16, live,
                                        [&](int r) { return (int64_t)(item.token + r / together) * heads + head_of(r); });
        } else {
            const auto part_row = [&](int r) {
                return (int64_t)(step.part_start[item.token + r / together] + item.part) * heads + head_of(r);
            };
            Pages::template store<float, D>(step.parts, acc, d, warp * 16, live, part_row);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int r = warp * 16 + lane / 4 + half * 8;
                if (lane % 4 == 0 && r < live) {
                    step.stats[part_row(r) * 2] = largest[half];
                    step.stats[part_row(r) * 2 + 1] = sum[half];
                }
            }
        }
    }
}

// Token blockIdx.x: its parts become its result, in their order.
template <class T>
__device__ void join_parts(T* __restrict__ out, const float* __restrict__ parts, const float* __restrict__ stats,
                           const uint32_t* __restrict__ part_start, int heads, int d) {
    const int begin = part_start[blockIdx.x], end = part_start[blockIdx.x + 1];
    if (begin == end) return;
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
        out[(int64_t)blockIdx.x * heads * d + i] = of_float<T>(x / total);
    }
}

FOR_BOTH(join_parts, join_parts,
         (bf16 * out, const float* parts, const float* stats, const uint32_t* part_start, int heads, int d),
         (float* out, const float* parts, const float* stats, const uint32_t* part_start, int heads, int d),
         (out, parts, stats, part_start, heads, d))

#define ATTEND(name, T, call)                                                                                           \
    name(T* out, float* parts, float* stats, const T* qkv, const T* keys, const T* values, const PageItem* items,       \
         const uint32_t* tables, const uint32_t* table_start, const uint32_t* position, const uint32_t* part_start,     \
         int heads, int kv_heads, int d, int window, float scale, float cap) {                                          \
        const PagedStep step = {tables, table_start, position, part_start, parts, stats, heads, kv_heads,               \
                                d,      window,      scale,    cap};                                                    \
        call(out, qkv, keys, values, PlainPages<T>(), items, step);                                                     \
    }
#define ATTEND_FP8(name, T, call)                                                                                       \
    name(T* out, float* parts, float* stats, const T* qkv, const uint8_t* keys, const uint8_t* values,                  \
         const float* key_scales, const float* value_scales, const PageItem* items, const uint32_t* tables,             \
         const uint32_t* table_start, const uint32_t* position, const uint32_t* part_start, int heads, int kv_heads,    \
         int d, int window, float scale, float cap) {                                                                   \
        const PagedStep step = {tables, table_start, position, part_start, parts, stats, heads, kv_heads,               \
                                d,      window,      scale,    cap};                                                    \
        const Fp8Pages<T> pages_of = {key_scales, value_scales};                                                        \
        call(out, qkv, keys, values, pages_of, items, step);                                                            \
    }
#define ATTEND_PAGES(name, T, D, S, WARPS)                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND(attend_pages_##name, T, (attend_pages<T, PlainPages<T>, D, S, WARPS>))
#define ATTEND_FP8_PAGES(name, T, D, S, WARPS)                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND_FP8(attend_fp8_pages_##name, T, (attend_pages<T, Fp8Pages<T>, D, S, WARPS>))
// WARPS and S as `TileShape::of` in ops/attention/gpu.rs has them for the forward.
#define ATTEND_COMMON_PAGES(name, T, D, WARPS, S)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND(attend_common_pages_##name, T, (attend_common_pages<T, PlainPages<T>, D, WARPS, S>))                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND_FP8(attend_common_fp8_pages_##name, T, (attend_common_pages<T, Fp8Pages<T>, D, WARPS, S>))

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

ATTEND_COMMON_PAGES(bf16_64, bf16, 64, 4, 64)
ATTEND_COMMON_PAGES(bf16_128, bf16, 128, 4, 64)
ATTEND_COMMON_PAGES(bf16_256, bf16, 256, 4, 32)
ATTEND_COMMON_PAGES(f32_64, float, 64, 2, 32)
ATTEND_COMMON_PAGES(f32_128, float, 128, 2, 32)
ATTEND_COMMON_PAGES(f32_256, float, 256, 2, 32)
