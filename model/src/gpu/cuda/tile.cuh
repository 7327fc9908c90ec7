// Tiles of rows in shared memory, and the two products of attention on them.
//
// A warp owns sixteen rows of the left matrix. Accumulators lie as mma.m16n8k16 has them: of columns 8n..8n + 8, thread
// `lane` holds rows lane / 4 (numbers 0, 1) and lane / 4 + 8 (2, 3) at columns 2 (lane % 4) and the next. bf16 goes
// through the matrix units; f32, for checks, computes the same numbers in the same places by plain multiply-adds.
#pragma once
#include "common.cuh"

// Elements between the starts of two rows of a tile of D columns: 16 bytes apart from a multiple of 128, so that eight
// rows read at one column fall into different banks.
template <class T, int D>
struct Tile {
    static constexpr int STRIDE = D + 16 / (int)sizeof(T);
    static constexpr int BYTES_PER_ROW = STRIDE * (int)sizeof(T);
};

// Copies rows row_of(0..ROWS) of `base` (rows `width` elements apart, d of them used) into a tile; zeros in the rows from
// `live` on and in the columns from d on; by `threads` threads, this one being number `thread`. Asynchronous where rows are
// aligned: the caller commits and waits.
template <class T, int D, int ROWS, class RowOf>
__device__ __forceinline__ void load_tile(T* tile, const T* base, int64_t width, int d, int live, RowOf row_of,
                                          int thread, int threads) {
    constexpr int STRIDE = Tile<T, D>::STRIDE, N = Vec<T>::N;
    if (d % N == 0 && width % N == 0) {
        for (int i = thread; i < ROWS * (D / N); i += threads) {
            const int r = i / (D / N), c = i % (D / N) * N;
            const bool real = r < live && c < d;
            cp_async_16_zero(tile + r * STRIDE + c, real ? base + row_of(r) * width + c : base, real);
        }
    } else {
        for (int i = thread; i < ROWS * D; i += threads) {
            const int r = i / D, c = i % D;
            tile[r * STRIDE + c] = r < live && c < d ? base[row_of(r) * width + c] : of_float<T>(0.0f);
        }
    }
}

// The same by all threads of the block.
template <class T, int D, int ROWS, class RowOf>
__device__ __forceinline__ void load_tile(T* tile, const T* base, int64_t width, int d, int live, RowOf row_of) {
    load_tile<T, D, ROWS>(tile, base, width, d, live, row_of, threadIdx.x, blockDim.x);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    const bf16 pair[2] = {float_to_bf16(low), float_to_bf16(high)};
    uint32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return bits;
}

template <int N>
__device__ __forceinline__ void clear(float (&acc)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[n][e] = 0;
}

// acc [16, S] += a · bᵀ for this warp's rows of a, b [S, D], both tiles.
template <int D, int S>
__device__ __forceinline__ void product_transposed(float (&acc)[S / 8][4], const bf16* a, const bf16* b) {
    constexpr int STRIDE = Tile<bf16, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    a += lane % 16 * STRIDE + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t fa[4], fb[4];
        ldmatrix_x4(fa, a + k);
#pragma unroll
        for (int n = 0; n < S / 16; n++) {
            ldmatrix_x4(fb, b + n * 16 * STRIDE + k);
            mma_bf16_16x8x16(acc[2 * n], fa, fb[0], fb[1]);
            mma_bf16_16x8x16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
    }
}

template <int D, int S>
__device__ __forceinline__ void product_transposed(float (&acc)[S / 8][4], const float* a, const float* b) {
    constexpr int STRIDE = Tile<float, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    for (int n = 0; n < S / 8; n++) {
        for (int k = 0; k < D; k++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[n][e] += a[(lane / 4 + e / 2 * 8) * STRIDE + k] * b[(n * 8 + lane % 4 * 2 + e % 2) * STRIDE + k];
        }
    }
}

// acc [16, D] += p · b for accumulators p [16, S] of this warp, b [S, D] a tile.
template <int D, int S>
__device__ __forceinline__ void product(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const bf16* b) {
    constexpr int STRIDE = Tile<bf16, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    b += lane % 16 * STRIDE + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < S / 16; k++) {
        const uint32_t fa[4] = {pack_bf16(p[2 * k][0], p[2 * k][1]), pack_bf16(p[2 * k][2], p[2 * k][3]),
                                pack_bf16(p[2 * k + 1][0], p[2 * k + 1][1]), pack_bf16(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t fb[4];
            ldmatrix_x4_trans(fb, b + k * 16 * STRIDE + n * 16);
            mma_bf16_16x8x16(acc[2 * n], fa, fb[0], fb[1]);
            mma_bf16_16x8x16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
    }
}

template <int D, int S>
__device__ __forceinline__ void product(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const float* b) {
    constexpr int STRIDE = Tile<float, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < S / 8; n++) {
#pragma unroll
        for (int quad = 0; quad < 4; quad++) {
            // Columns 8n + 2 quad and the next of this thread's two rows.
            float row[4];
#pragma unroll
            for (int e = 0; e < 4; e++) row[e] = __shfl_sync(FULL_WARP, p[n][e], lane / 4 * 4 + quad);
            const float* at = b + (n * 8 + quad * 2) * STRIDE + lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    acc[c][e] += row[e / 2 * 2] * at[c * 8 + e % 2] + row[e / 2 * 2 + 1] * at[STRIDE + c * 8 + e % 2];
            }
        }
    }
}

// A step of the online softmax (FlashAttention-2): this warp's products p [16, S] become weights by score(product, half, column),
// which is −∞ for a key that the row does not see; `acc` and `sum` are brought to the new maximum, and `sum` takes the weights.
template <class T, int S, int C, class Score>
__device__ __forceinline__ void softmax_step(float (&p)[S / 8][4], float (&acc)[C][4], float (&largest)[2], float (&sum)[2],
                                             Score score) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = largest[half];
#pragma unroll
        for (int n = 0; n < S / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                p[n][half * 2 + e] = score(p[n][half * 2 + e], half, n * 8 + lane % 4 * 2 + e);
                // fmaxf passes over NaN; its exponential below does not.
                most = fmaxf(most, p[n][half * 2 + e]);
            }
        }
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
        // A row that has seen no key yet keeps zeros.
        const float shift = most == -INFINITY ? 0.0f : most;
        const float shrink = exp_of<T>(largest[half] - shift);
        largest[half] = most;
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < S / 8; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                p[n][half * 2 + e] = exp_of<T>(p[n][half * 2 + e] - shift);
                sum[half] += p[n][half * 2 + e];
            }
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
            acc[c][half * 2] *= shrink;
            acc[c][half * 2 + 1] *= shrink;
        }
    }
}

// The sums of a row's columns, which four threads hold, known to each of them.
__device__ __forceinline__ void join_sums(float (&sum)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(FULL_WARP, sum[half], 1);
        sum[half] += __shfl_xor_sync(FULL_WARP, sum[half], 2);
    }
}

// acc becomes acc / sum, row by row.
template <int C>
__device__ __forceinline__ void divide(float (&acc)[C][4], const float (&sum)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float inverse = 1.0f / sum[half];
#pragma unroll
        for (int c = 0; c < C; c++) {
            acc[c][half * 2] *= inverse;
            acc[c][half * 2 + 1] *= inverse;
        }
    }
}

// Writes this warp's accumulators [16, D] to rows of `out` (`width` elements apart), columns below d, rows below `live`.
template <class T, int D, class RowOf>
__device__ __forceinline__ void store_rows(T* out, const float (&acc)[D / 8][4], int64_t width, int d, int first, int live,
                                           RowOf row_of) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = first + lane / 4 + half * 8;
        if (r >= live) continue;
        T* row = out + row_of(r) * width + lane % 4 * 2;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            // d is even, and so is the column.
            if (c * 8 + lane % 4 * 2 >= d) continue;
            row[c * 8] = of_float<T>(acc[c][half * 2]);
            row[c * 8 + 1] = of_float<T>(acc[c][half * 2 + 1]);
        }
    }
}
