// What the kernels over a paged cache share: pages, items of a step, and how pages keep their numbers.
#pragma once
#include "e4m3_tile.cuh"

#define PAGE 16
// A token without a place: one that fills a captured step up.
#define NO_SLOT 0xffffffffu

// Tokens token..token + count of the step over the keys at positions from..to, whose row's pages stand in `tables` from `table` on.
// `part` is the place of the result among those of each token; where it is −1 − n, it and the n parts before it are the whole.
// Nothing to do where count is 0.
struct PageItem {
    int token, count, from, to, part, table;
};

// What all kernels of a step share.
struct PagedStep {
    const uint32_t *tables, *position, *part_start;
    float *parts, *stats;  // [parts, heads, d]; [parts, heads, 2]: the greatest score and the sum of the weights
    int heads, kv_heads, d, window;
    float scale, cap;
};

template <class T>
__device__ __forceinline__ float paged_score(const PagedStep& s, float product) {
    const float x = product * s.scale;
    return s.cap > 0 ? s.cap * tanh_of<T>(x / s.cap) : x;
}

__device__ __forceinline__ int oldest_of(const PagedStep& s, int position) {
    return s.window ? max(0, position + 1 - s.window) : 0;
}

// The row of `keys` as of `values`, in rows of d, of the key at position j.
__device__ __forceinline__ int64_t page_row(const PagedStep& s, const uint32_t* pages, int kv_head, int j) {
    return ((int64_t)pages[j / PAGE] * s.kv_heads + kv_head) * PAGE + j % PAGE;
}

// S keys or values at positions j.. of a row, of which `live` are there: as many, or what follows the last one is 0.
struct PageStretch {
    const PagedStep& step;
    const uint32_t* table;
    int kv_head, j, live;
};

// How COPIERS threads bring S keys or values that begin a page to a tile: each has the numbers of the pages that it copies from, found
// long before they are needed, and a page's rows, which follow each other, are copied without a look at anything else.
template <class Number, int D, int S, int COPIERS>
struct PagedTile {
    static constexpr int N = Vec<Number>::N, STRIDE = Tile<Number, D>::STRIDE, ROW = D / N, CHUNKS = PAGE * ROW;
    // Pages that all threads together copy from at a time, and the rounds that they need for it.
    static constexpr int ABREAST = COPIERS > CHUNKS ? COPIERS / CHUNKS : 1, ROUNDS = COPIERS > CHUNKS ? 1 : CHUNKS / COPIERS;
    static constexpr int PAGES = S / PAGE / ABREAST;
    static_assert(S % (PAGE * ABREAST) == 0 && COPIERS * ROUNDS == CHUNKS * ABREAST, "no thread copies from half a page");
    uint32_t pages[PAGES];

    // Of the keys from j on, up to `to`.
    __device__ __forceinline__ void find(const uint32_t* table, int j, int to, int thread) {
#pragma unroll
        for (int p = 0; p < PAGES; p++) {
            const int page = j / PAGE + p * ABREAST + thread / CHUNKS;
            pages[p] = page * PAGE < to ? table[page] : 0;
        }
    }

    __device__ __forceinline__ void copy(Number* tile, const Number* numbers, const PageStretch& s, int thread) const {
        if (s.step.d != D) return copy_narrow(tile, numbers, s, thread);
        const int chunk = thread % CHUNKS, first = thread / CHUNKS * PAGE + chunk / ROW;
        Number* to = tile + first * STRIDE + chunk % ROW * N;
#pragma unroll
        for (int p = 0; p < PAGES; p++) {
            const Number* from = numbers + ((int64_t)pages[p] * s.step.kv_heads + s.kv_head) * (PAGE * D) + chunk * N;
#pragma unroll
            for (int round = 0; round < ROUNDS; round++) {
                const int row = p * ABREAST * PAGE + round * COPIERS / ROW, column = round * COPIERS % ROW * N;
                cp_async_16_zero(to + row * STRIDE + column, from + round * COPIERS * N, first + row < s.live);
            }
        }
    }

  private:
    // The same of rows that are not as long as a tile's.
    static __device__ __forceinline__ void copy_narrow(Number* tile, const Number* numbers, const PageStretch& s, int thread) {
        const int d = s.step.d;
#pragma unroll 1
        for (int i = thread; i < S * ROW; i += COPIERS) {
            const int r = i / ROW, c = i % ROW * N;
            const bool real = r < s.live && c < d;
            Number* to = tile + r * STRIDE + c;
            const Number* from = real ? numbers + page_row(s.step, s.table, s.kv_head, s.j + r) * d + c : numbers;
            if (d % N == 0) {
                cp_async_16_zero(to, from, real);
                continue;
            }
#pragma unroll 1
            for (int e = 0; e < N; e++) to[e] = real && c + e < d ? from[e] : Number();
        }
    }
};

// Keys and values as they were computed. The kernels of attention over pages are written for any type like this: `Number` is what a
// page holds, rows of d; of a tile of them `column` gives the column of a row of accumulators (of its second number: STEP more).
template <class T>
struct PlainPages {
    typedef T Number;
    static constexpr int STEP = 1;
    // Whether queries are copied as keys are, so that nobody waits for them.
    static constexpr bool COPIES_QUERIES = true;

    // Numbers of the place that S keys or values of D take.
    template <int D, int S>
    static constexpr int TILE = S * Tile<T, D>::STRIDE;

    static __device__ __forceinline__ int column(int c) { return c * 8 + threadIdx.x % WARP % 4 * 2; }

    template <int D, int ROWS, class RowOf>
    static __device__ __forceinline__ void load_queries(T* tile, const T* base, int d, int live, RowOf row_of) {
        load_tile<T, D, ROWS>(tile, base, d, d, live, row_of);
    }

    template <int D, int S, int COPIERS>
    __device__ __forceinline__ void load_keys(const PagedTile<T, D, S, COPIERS>& place, T* tile, const T* keys, const PageStretch& s,
                                              int thread) const {
        place.copy(tile, keys, s, thread);
    }
    template <int D, int S, int COPIERS>
    __device__ __forceinline__ void load_values(const PagedTile<T, D, S, COPIERS>& place, T* tile, const T* values,
                                                const PageStretch& s, int thread) const {
        place.copy(tile, values, s, thread);
    }

    // What p [16, S] of this warp, scores or weights, is multiplied by for each of the `live` keys or values of a tile: nothing.
    template <int D, int S>
    static __device__ __forceinline__ void scale(float (&)[S / 8][4], const T*, int) {}

    template <int D, int S>
    static __device__ __forceinline__ void weighted(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const T* values) {
        product<D, S>(acc, p, values);
    }

    template <class Out, int D, class RowOf>
    static __device__ __forceinline__ void store(Out* out, const float (&acc)[D / 8][4], int d, int first, int live, RowOf row_of) {
        store_rows<Out, D>(out, acc, d, d, first, live, row_of);
    }
};

// Keys and values in E4M3, a scale for each token and head: number = code · scale. Queries' columns stand as the codes' are read
// (e4m3_tile.cuh); a tile's scales stand behind its codes. Scores take the keys' scales after the product; weights take the values'
// scales before theirs, when they are in the sums already.
template <class T>
struct Fp8Pages {
    typedef uint8_t Number;
    static constexpr int STEP = 2;
    static constexpr bool COPIES_QUERIES = false;
    const float *key_scales, *value_scales;  // [pages, kv_heads, 16]

    template <int D, int S>
    static constexpr int TILE = S * (Tile<uint8_t, D>::STRIDE + (int)sizeof(float));

    static __device__ __forceinline__ int column(int c) { return code_column(c); }

    template <int D, int ROWS, class RowOf>
    static __device__ __forceinline__ void load_queries(T* tile, const T* base, int d, int live, RowOf row_of) {
        load_tile_for_codes<T, D, ROWS>(tile, base, d, live, row_of);
    }

    template <int D, int S, int COPIERS>
    __device__ __forceinline__ void load_keys(const PagedTile<uint8_t, D, S, COPIERS>& place, uint8_t* tile, const uint8_t* keys,
                                              const PageStretch& s, int thread) const {
        place.copy(tile, keys, s, thread);
        load_scales<D, S, COPIERS>(tile, key_scales, s, thread);
    }
    template <int D, int S, int COPIERS>
    __device__ __forceinline__ void load_values(const PagedTile<uint8_t, D, S, COPIERS>& place, uint8_t* tile, const uint8_t* values,
                                                const PageStretch& s, int thread) const {
        place.copy(tile, values, s, thread);
        load_scales<D, S, COPIERS>(tile, value_scales, s, thread);
    }

    template <int D, int S>
    static __device__ __forceinline__ void scale(float (&p)[S / 8][4], const uint8_t* tile, int live) {
        scale_columns<S>(p, reinterpret_cast<const float*>(tile + S * Tile<uint8_t, D>::STRIDE), live);
    }

    template <int D, int S>
    static __device__ __forceinline__ void weighted(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const uint8_t* values) {
        product<D, S>(acc, p, values, T());
    }

    template <class Out, int D, class RowOf>
    static __device__ __forceinline__ void store(Out* out, const float (&acc)[D / 8][4], int d, int first, int live, RowOf row_of) {
        store_rows_of_codes<Out, D>(out, acc, d, first, live, row_of);
    }

  private:
    // The scales of four slots at a time: a page's stand side by side.
    template <int D, int S, int COPIERS>
    static __device__ __forceinline__ void load_scales(uint8_t* tile, const float* scales, const PageStretch& s, int thread) {
        float* room = reinterpret_cast<float*>(tile + S * Tile<uint8_t, D>::STRIDE);
        for (int r = thread * 4; r < S; r += COPIERS * 4) {
            const bool real = r < s.live;
            cp_async_16_zero(room + r, real ? scales + page_row(s.step, s.table, s.kv_head, s.j + r) : scales, real);
        }
    }
};

// Kernels of both kinds of pages.
#define ATTEND(name, T, call)                                                                                           \
    name(T* out, float* parts, float* stats, const T* qkv, const T* keys, const T* values, const PageItem* items,       \
         const uint32_t* tables, const uint32_t* position, const uint32_t* part_start, int heads, int kv_heads, int d,  \
         int window, float scale, float cap) {                                                                          \
        const PagedStep step = {tables, position, part_start, parts, stats, heads, kv_heads, d, window, scale, cap};    \
        call(out, qkv, keys, values, PlainPages<T>(), items, step);                                                     \
    }
#define ATTEND_FP8(name, T, call)                                                                                       \
    name(T* out, float* parts, float* stats, const T* qkv, const uint8_t* keys, const uint8_t* values,                  \
         const float* key_scales, const float* value_scales, const PageItem* items, const uint32_t* tables,             \
         const uint32_t* position, const uint32_t* part_start, int heads, int kv_heads, int d, int window, float scale, \
         float cap) {                                                                                                   \
        const PagedStep step = {tables, position, part_start, parts, stats, heads, kv_heads, d, window, scale, cap};    \
        const Fp8Pages<T> pages_of = {key_scales, value_scales};                                                        \
        call(out, qkv, keys, values, pages_of, items, step);                                                            \
    }
