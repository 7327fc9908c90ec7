// What the kernels over a paged cache share: pages, items of a step, and how pages keep their numbers.
#pragma once
#include "e4m3_tile.cuh"

#define PAGE 16
// A token without a place: one that fills a captured step up.
#define NO_SLOT 0xffffffffu

// Tokens token..token + count of the step over the keys at positions from..to. `part` is the place of the result among those of
// each token, −1 where it is the whole. Nothing to do where count is 0.
struct PageItem {
    int token, count, from, to, part;
};

// What all kernels of a step share.
struct PagedStep {
    const uint32_t *tables, *table_start, *position, *part_start;
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

// Keys and values as they were computed. The kernels of attention over pages are written for any type like this: `Number` is what a
// page holds, rows of d; of a tile of them `column` gives the column of a row of accumulators (of its second number: STEP more).
template <class T>
struct PlainPages {
    typedef T Number;
    static constexpr int STEP = 1;

    // Numbers of the place that S keys or values of D take.
    template <int D, int S>
    static constexpr int TILE = S * Tile<T, D>::STRIDE;

    static __device__ __forceinline__ int column(int c) { return c * 8 + threadIdx.x % WARP % 4 * 2; }

    template <int D, int ROWS, class RowOf>
    static __device__ __forceinline__ void load_queries(T* tile, const T* base, int d, int live, RowOf row_of) {
        load_tile<T, D, ROWS>(tile, base, d, d, live, row_of);
    }

    // As `load_tile`, of keys or values that begin a page.
    template <int D, int S, class RowOf>
    __device__ __forceinline__ void load_keys(T* tile, const T* keys, int d, int live, RowOf row_of, int thread, int threads) const {
        load_tile<T, D, S>(tile, keys, d, d, live, row_of, thread, threads);
    }
    template <int D, int S, class RowOf>
    __device__ __forceinline__ void load_values(T* tile, const T* values, int d, int live, RowOf row_of, int thread,
                                                int threads) const {
        load_tile<T, D, S>(tile, values, d, d, live, row_of, thread, threads);
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
    const float *key_scales, *value_scales;  // [pages, kv_heads, 16]

    template <int D, int S>
    static constexpr int TILE = S * (Tile<uint8_t, D>::STRIDE + (int)sizeof(float));

    static __device__ __forceinline__ int column(int c) { return code_column(c); }

    template <int D, int ROWS, class RowOf>
    static __device__ __forceinline__ void load_queries(T* tile, const T* base, int d, int live, RowOf row_of) {
        load_tile_for_codes<T, D, ROWS>(tile, base, d, live, row_of);
    }

    template <int D, int S, class RowOf>
    __device__ __forceinline__ void load_keys(uint8_t* tile, const uint8_t* keys, int d, int live, RowOf row_of, int thread,
                                              int threads) const {
        load_codes<D, S>(tile, keys, key_scales, d, live, row_of, thread, threads);
    }
    template <int D, int S, class RowOf>
    __device__ __forceinline__ void load_values(uint8_t* tile, const uint8_t* values, int d, int live, RowOf row_of, int thread,
                                                int threads) const {
        load_codes<D, S>(tile, values, value_scales, d, live, row_of, thread, threads);
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
    // Codes, and the scales of four slots at a time: a page's stand side by side.
    template <int D, int S, class RowOf>
    static __device__ __forceinline__ void load_codes(uint8_t* tile, const uint8_t* codes, const float* scales, int d, int live,
                                                      RowOf row_of, int thread, int threads) {
        load_tile<uint8_t, D, S>(tile, codes, d, d, live, row_of, thread, threads);
        float* room = reinterpret_cast<float*>(tile + S * Tile<uint8_t, D>::STRIDE);
        for (int r = thread * 4; r < S; r += threads * 4) {
            const bool real = r < live;
            cp_async_16_zero(room + r, real ? scales + row_of(r) : scales, real);
        }
    }
};
