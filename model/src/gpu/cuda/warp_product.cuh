// The product of two tiles in shared memory by one warp, and what becomes of its sums.
//
// A sum runs over k from the first number to the last, sixteen of bf16 or 32 of E4M3 at a time, in one thread's accumulator,
// whatever the tiles: kernels that are made of these give a row of C the same bits wherever the row stands.
#pragma once
#include "tile.cuh"

// What a matrix unit multiplies at once, by the type of its numbers: 16 rows of a and 8 of b, 32 bytes of k of each.
template <class T>
struct MatrixUnit;

template <>
struct MatrixUnit<bf16> {
    static __device__ __forceinline__ void add_product(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_bf16_16x8x16(acc, a, b0, b1);
    }
};

// acc [WM, WN] += a [WM, DEPTH] · b [WN, DEPTH]ᵀ for one warp. Numbers of one byte lie as those of two do, byte by byte; f32, for
// checks, has the same numbers in the same places by plain multiply-adds.
template <int DEPTH, int WM, int WN, class T>
__device__ __forceinline__ void warp_product(float (&acc)[WM / 16][WN / 8][4], const T* a, const T* b) {
    constexpr int STRIDE = Tile<T, DEPTH>::STRIDE;
    const int lane = threadIdx.x % WARP;
    if constexpr (sizeof(T) == sizeof(float)) {
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
    } else {
        // Half of what is multiplied at once.
        constexpr int HALF = 16 / (int)sizeof(T);
        a += lane % 16 * STRIDE + lane / 16 * HALF;
        b += (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * HALF;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 2 * HALF) {
            uint32_t fa[WM / 16][4];
#pragma unroll
            for (int i = 0; i < WM / 16; i++) ldmatrix_x4(fa[i], a + i * 16 * STRIDE + k);
#pragma unroll
            for (int n = 0; n < WN / 16; n++) {
                uint32_t fb[4];
                ldmatrix_x4(fb, b + n * 16 * STRIDE + k);
#pragma unroll
                for (int i = 0; i < WM / 16; i++) {
                    MatrixUnit<T>::add_product(acc[i][2 * n], fa[i], fb[0], fb[1]);
                    MatrixUnit<T>::add_product(acc[i][2 * n + 1], fa[i], fb[2], fb[3]);
                }
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
