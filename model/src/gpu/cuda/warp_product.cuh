// The product of two tiles in shared memory by one warp, and what becomes of its sums.
//
// A sum runs over k from the first number to the last, sixteen at a time, in one thread's accumulator, whatever the tiles: kernels
// that are made of these give a row of C the same bits wherever the row stands.
#pragma once
#include "tile.cuh"

// acc [WM, WN] += a [WM, DEPTH] · b [WN, DEPTH]ᵀ for one warp.
template <int DEPTH, int WM, int WN>
__device__ __forceinline__ void warp_product(float (&acc)[WM / 16][WN / 8][4], const bf16* a, const bf16* b) {
    constexpr int STRIDE = Tile<bf16, DEPTH>::STRIDE;
    const int lane = threadIdx.x % WARP;
    a += lane % 16 * STRIDE + lane / 16 * 8;
    b += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t fa[WM / 16][4];
#pragma unroll
        for (int i = 0; i < WM / 16; i++) ldmatrix_x4(fa[i], a + i * 16 * STRIDE + k);
#pragma unroll
        for (int n = 0; n < WN / 16; n++) {
            uint32_t fb[4];
            ldmatrix_x4(fb, b + n * 16 * STRIDE + k);
#pragma unroll
            for (int i = 0; i < WM / 16; i++) {
                mma_bf16_16x8x16(acc[i][2 * n], fa[i], fb[0], fb[1]);
                mma_bf16_16x8x16(acc[i][2 * n + 1], fa[i], fb[2], fb[3]);
            }
        }
    }
}

// The same numbers in the same places, by plain multiply-adds.
template <int DEPTH, int WM, int WN>
__device__ __forceinline__ void warp_product(float (&acc)[WM / 16][WN / 8][4], const float* a, const float* b) {
    constexpr int STRIDE = Tile<float, DEPTH>::STRIDE;
    const int lane = threadIdx.x % WARP;
    for (int i = 0; i < WM / 16; i++) {
        for (int n = 0; n < WN / 8; n++) {
            for (int k = 0; k < DEPTH; k++) {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    acc[i][n][e] += a[(i * 16 + lane / 4 + e / 2 * 8) * STRIDE + k] *
                                    b[(n * 8 + lane % 4 * 2 + e % 2) * STRIDE + k];
            }
        }
    }
}

// Writes a warp's sums to C [m, n] from its first row and column on.
template <int WM, int WN, class Out>
__device__ __forceinline__ void store_sums(Out* __restrict__ c, const float (&acc)[WM / 16][WN / 8][4], int row,
                                           int column, int m, int n, int64_t c_stride) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + i * 16 + half * 8 + lane / 4;
            if (r >= m) continue;
#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
                const int at = column + j * 8 + lane % 4 * 2;
                if (at < n) c[r * c_stride + at] = of_float<Out>(acc[i][j][half * 2]);
                if (at + 1 < n) c[r * c_stride + at + 1] = of_float<Out>(acc[i][j][half * 2 + 1]);
            }
        }
    }
}
