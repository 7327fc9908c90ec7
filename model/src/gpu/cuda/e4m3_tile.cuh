// Tiles of codes of E4M3 in shared memory, and the two products of attention on them: tile.cuh's, whose right matrix is codes, with
// numbers of bf16 (or f32, for checks) on the left.
//
// A code becomes a bf16 in a register, exactly, on its way into the matrix units: a byte of the tile is moved once, and no copy of it
// in bf16 is in shared memory. `ldmatrix` moves 16-bit elements, two codes each; what a thread gets is therefore not the columns
// that an mma fragment of bf16 has, and the difference is taken up elsewhere:
//  - scores sum over the columns of queries and keys, in any order: queries lie with their columns at `code_place`;
//  - of weighted values a thread gets two columns for one, and computes both: accumulators have the columns `code_column`.
#pragma once
#include "e4m3.cuh"
#include "tile.cuh"

// The numbers, in bf16, of the codes in the high bytes of both halves; but for NaN, which becomes 480 (the scale beside it is NaN).
__device__ __forceinline__ uint32_t bf16_pair_of_codes(uint32_t codes) {
    // Exponent and mantissa at their places in bf16, whose exponent counts from −127, not from −7: 2⁻¹²⁰ times the number.
    const uint32_t small = (codes & 0x80008000u) | ((codes & 0x7f007f00u) >> 4);
    return times_bf16_pair(small, 0x7b807b80u);
}

// Of four codes the first and the third, and the second and the fourth.
__device__ __forceinline__ uint32_t even_codes(uint32_t four) { return bf16_pair_of_codes(four << 8); }
__device__ __forceinline__ uint32_t odd_codes(uint32_t four) { return bf16_pair_of_codes(four); }

// Where a query's column stands: of the four columns 4q to 4q + 3 of sixteen, thread q of the four that share a row multiplies the
// first and third in one step, the second and fourth in the next.
__device__ __forceinline__ int code_place(int column) {
    const int c = column % 16;
    return column / 16 * 16 + c % 2 * 8 + c / 4 * 2 + c % 4 / 2;
}

// The column of accumulators c's numbers 0 and 2; that of 1 and 3 is the next but one.
__device__ __forceinline__ int code_column(int c) { return c / 2 * 16 + threadIdx.x % WARP % 4 * 4 + c % 2; }

// As `load_tile` by all threads of the block, of rows of d numbers without gaps, every column at its `code_place`.
template <class T, int D, int ROWS, class RowOf>
__device__ __forceinline__ void load_tile_for_codes(T* tile, const T* base, int d, int live, RowOf row_of) {
    constexpr int STRIDE = Tile<T, D>::STRIDE, N = Vec<T>::N;
    if (d % N == 0) {
        for (int i = threadIdx.x; i < ROWS * (D / N); i += blockDim.x) {
            const int r = i / (D / N), c = i % (D / N) * N;
            const bool real = r < live && c < d;
            const Vec<T> numbers = load_vec(real ? base + row_of(r) * d + c : base);
#pragma unroll
            for (int e = 0; e < N; e++) tile[r * STRIDE + code_place(c + e)] = real ? numbers.at[e] : of_float<T>(0.0f);
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * D; i += blockDim.x) {
            const int r = i / D, c = i % D;
            tile[r * STRIDE + code_place(c)] = r < live && c < d ? base[row_of(r) * d + c] : of_float<T>(0.0f);
        }
    }
}

// acc [16, S] += a · bᵀ for this warp's rows of a, columns at their `code_place`; b [S, D] codes.
template <int D, int S>
__device__ __forceinline__ void product_transposed(float (&acc)[S / 8][4], const bf16* a, const uint8_t* b) {
    constexpr int STRIDE = Tile<bf16, D>::STRIDE, CODES = Tile<uint8_t, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    a += lane % 16 * STRIDE + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * CODES + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < D; k += 32) {
        uint32_t first[4], second[4], codes[4];
        ldmatrix_x4(first, a + k);
        ldmatrix_x4(second, a + k + 16);
#pragma unroll
        for (int n = 0; n < S / 16; n++) {
            // Of eight keys each, columns k to k + 15 and k + 16 to k + 31.
            ldmatrix_x4(codes, b + n * 16 * CODES + k);
            mma_bf16_16x8x16(acc[2 * n], first, even_codes(codes[0]), odd_codes(codes[0]));
            mma_bf16_16x8x16(acc[2 * n], second, even_codes(codes[1]), odd_codes(codes[1]));
            mma_bf16_16x8x16(acc[2 * n + 1], first, even_codes(codes[2]), odd_codes(codes[2]));
            mma_bf16_16x8x16(acc[2 * n + 1], second, even_codes(codes[3]), odd_codes(codes[3]));
        }
    }
}

template <int D, int S>
__device__ __forceinline__ void product_transposed(float (&acc)[S / 8][4], const float* a, const uint8_t* b) {
    constexpr int STRIDE = Tile<float, D>::STRIDE, CODES = Tile<uint8_t, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    for (int n = 0; n < S / 8; n++) {
        for (int k = 0; k < D; k++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[n][e] += a[(lane / 4 + e / 2 * 8) * STRIDE + code_place(k)] *
                             from_e4m3(b[(n * 8 + lane % 4 * 2 + e % 2) * CODES + k]);
        }
    }
}

// acc [16, D] += p · b for accumulators p [16, S] of this warp, b [S, D] codes; columns of acc as `code_column` has them. `like` says
// which numbers are multiplied.
template <int D, int S>
__device__ __forceinline__ void product(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const uint8_t* b, bf16 /* like */) {
    constexpr int CODES = Tile<uint8_t, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    b += lane % 16 * CODES + lane / 16 * 16;
#pragma unroll
    for (int k = 0; k < S / 16; k++) {
        const uint32_t fa[4] = {pack_bf16(p[2 * k][0], p[2 * k][1]), pack_bf16(p[2 * k][2], p[2 * k][3]),
                                pack_bf16(p[2 * k + 1][0], p[2 * k + 1][1]), pack_bf16(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 32; n++) {
            // Of sixteen columns each, keys 0 to 7 and 8 to 15.
            uint32_t codes[4];
            ldmatrix_x4_trans(codes, b + k * 16 * CODES + n * 32);
            mma_bf16_16x8x16(acc[4 * n], fa, even_codes(codes[0]), even_codes(codes[1]));
            mma_bf16_16x8x16(acc[4 * n + 1], fa, odd_codes(codes[0]), odd_codes(codes[1]));
            mma_bf16_16x8x16(acc[4 * n + 2], fa, even_codes(codes[2]), even_codes(codes[3]));
            mma_bf16_16x8x16(acc[4 * n + 3], fa, odd_codes(codes[2]), odd_codes(codes[3]));
        }
    }
}

template <int D, int S>
__device__ __forceinline__ void product(float (&acc)[D / 8][4], const float (&p)[S / 8][4], const uint8_t* b, float /* like */) {
    constexpr int CODES = Tile<uint8_t, D>::STRIDE;
    const int lane = threadIdx.x % WARP;
    // Unrolled, this would be the most of all kernels' code.
#pragma unroll 1
    for (int n = 0; n < S / 8; n++) {
#pragma unroll 1
        for (int quad = 0; quad < 4; quad++) {
            // Keys 8n + 2 quad and the next.
            float row[4];
#pragma unroll
            for (int e = 0; e < 4; e++) row[e] = __shfl_sync(FULL_WARP, p[n][e], lane / 4 * 4 + quad);
            const uint8_t* at = b + (n * 8 + quad * 2) * CODES;
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int column = code_column(c) + e % 2 * 2;
                    acc[c][e] += row[e / 2 * 2] * from_e4m3(at[column]) + row[e / 2 * 2 + 1] * from_e4m3(at[CODES + column]);
                }
            }
        }
    }
}

// As `store_rows`, of accumulators whose columns `code_column` gives, to rows of d numbers without gaps.
template <class T, int D, class RowOf>
__device__ __forceinline__ void store_rows_of_codes(T* out, const float (&acc)[D / 8][4], int d, int first, int live, RowOf row_of) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = first + lane / 4 + half * 8;
        if (r >= live) continue;
        T* row = out + row_of(r) * d;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = code_column(c) + e * 2;
                if (column < d) row[column] = of_float<T>(acc[c][half * 2 + e]);
            }
        }
    }
}

// p [16, S] of this warp times a number for each of the first `live` columns; 0 past them, whatever stands there.
template <int S>
__device__ __forceinline__ void scale_columns(float (&p)[S / 8][4], const float* scales, int live) {
#pragma unroll
    for (int n = 0; n < S / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int column = n * 8 + threadIdx.x % WARP % 4 * 2 + e % 2;
            p[n][e] = column < live ? p[n][e] * scales[column] : 0.0f;
        }
    }
}
