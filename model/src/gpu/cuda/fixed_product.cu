// C [m, n] = A [m, k] · Bᵀ, B [n, k], where a row of C has the same bits whatever m is and wherever the row stands: each sum runs
// over k from the first number to the last, sixteen at a time, in one thread's accumulator, whatever the tile. cuBLAS chooses
// by m how it cuts k. See ops/fixed_product.rs.
#include "tile.cuh"

// Numbers of k to a stage, and stages on the way.
#define DEPTH 32
#define STAGES 4

// acc [WM, WN] += a [WM, DEPTH] · b [WN, DEPTH]ᵀ for one warp.
template <int WM, int WN>
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
template <int WM, int WN>
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

// One block to ROWS × COLUMNS of C, its warps side by side in tiles of WM × WN.
template <class T, class Out, int ROWS, int COLUMNS, int WM, int WN>
__device__ void fixed_product(Out* __restrict__ c, const T* __restrict__ a, const T* __restrict__ b, int m, int n, int k,
                              int64_t c_stride) {
    constexpr int STRIDE = Tile<T, DEPTH>::STRIDE, STAGE = (ROWS + COLUMNS) * STRIDE;
    DYNAMIC_SHARED(dynamic);
    T* stages = reinterpret_cast<T*>(dynamic);
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / (COLUMNS / WN) * WM, warp_column = warp % (COLUMNS / WN) * WN;
    const int steps = (k + DEPTH - 1) / DEPTH;
    const auto load = [&](int step) {
        if (step < steps) {
            T* to = stages + step % STAGES * STAGE;
            const int first = step * DEPTH, live = min(DEPTH, k - first);
            load_tile<T, DEPTH, ROWS>(to, a + first, k, live, m - row, [&](int r) { return (int64_t)row + r; });
            load_tile<T, DEPTH, COLUMNS>(to + ROWS * STRIDE, b + first, k, live, n - column,
                                         [&](int r) { return (int64_t)column + r; });
        }
        cp_async_commit();
    };
    float acc[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) clear(acc[i]);
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        // The stage that all warps have just left.
        load(step + STAGES - 1);
        const T* stage = stages + step % STAGES * STAGE;
        warp_product<WM, WN>(acc, stage + warp_row * STRIDE, stage + (ROWS + warp_column) * STRIDE);
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + warp_row + i * 16 + half * 8 + lane / 4;
            if (r >= m) continue;
#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
                const int at = column + warp_column + j * 8 + lane % 4 * 2;
                if (at < n) c[r * c_stride + at] = of_float<Out>(acc[i][j][half * 2]);
                if (at + 1 < n) c[r * c_stride + at + 1] = of_float<Out>(acc[i][j][half * 2 + 1]);
            }
        }
    }
}

#define FIXED_PRODUCT(name, T, Out, ROWS, COLUMNS, WM, WN)                                                              \
    extern "C" __global__ void __launch_bounds__(ROWS / WM * COLUMNS / WN * 32)                                         \
        fixed_product_##name(Out* c, const T* a, const T* b, int m, int n, int k, int64_t c_stride) {                   \
        fixed_product<T, Out, ROWS, COLUMNS, WM, WN>(c, a, b, m, n, k, c_stride);                                       \
    }
// Few rows: many narrow blocks, so that all of the GPU fetches weights. Tiles as `Form` in ops/fixed_product.rs has them.
FIXED_PRODUCT(few_bf16, bf16, bf16, 32, 64, 32, 16)
FIXED_PRODUCT(few_bf16_to_f32, bf16, float, 32, 64, 32, 16)
FIXED_PRODUCT(many_bf16, bf16, bf16, 128, 128, 64, 32)
FIXED_PRODUCT(many_bf16_to_f32, bf16, float, 128, 128, 64, 32)
FIXED_PRODUCT(few_f32, float, float, 32, 64, 32, 16)
FIXED_PRODUCT(many_f32, float, float, 64, 64, 32, 16)
