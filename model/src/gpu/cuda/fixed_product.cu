// C [m, n] = A [m, k] · Bᵀ, B [n, k], where a row of C has the same bits whatever m is and wherever the row stands: each sum runs
// over k from the first number to the last, sixteen at a time, in one thread's accumulator, whatever the tile. cuBLAS chooses
// by m how it cuts k. See ops/fixed_product.rs.
#include "warp_product.cuh"

// Numbers of k to a stage, and stages on the way.
#define FIXED_DEPTH 32
#define FIXED_STAGES 4

// One block to ROWS × COLUMNS of C, its warps side by side in tiles of WM × WN.
template <class T, class Out, int ROWS, int COLUMNS, int WM, int WN>
__device__ void fixed_product(Out* __restrict__ c, const T* __restrict__ a, const T* __restrict__ b, int m, int n, int k,
                              int64_t c_stride) {
    constexpr int STRIDE = Tile<T, FIXED_DEPTH>::STRIDE, STAGE = (ROWS + COLUMNS) * STRIDE;
    DYNAMIC_SHARED(dynamic);
    T* stages = reinterpret_cast<T*>(dynamic);
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const int warp = threadIdx.x / WARP;
    const int warp_row = warp / (COLUMNS / WN) * WM, warp_column = warp % (COLUMNS / WN) * WN;
    const int steps = (k + FIXED_DEPTH - 1) / FIXED_DEPTH;
    const auto load = [&](int step) {
        if (step < steps) {
            T* to = stages + step % FIXED_STAGES * STAGE;
            const int first = step * FIXED_DEPTH, live = min(FIXED_DEPTH, k - first);
            load_tile<T, FIXED_DEPTH, ROWS>(to, a + first, k, live, m - row, [&](int r) { return (int64_t)row + r; });
            load_tile<T, FIXED_DEPTH, COLUMNS>(to + ROWS * STRIDE, b + first, k, live, n - column,
                                         [&](int r) { return (int64_t)column + r; });
        }
        cp_async_commit();
    };
    float acc[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) clear(acc[i]);
    for (int step = 0; step < FIXED_STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<FIXED_STAGES - 2>();
        __syncthreads();
        // The stage that all warps have just left.
        load(step + FIXED_STAGES - 1);
        const T* stage = stages + step % FIXED_STAGES * STAGE;
        warp_product<FIXED_DEPTH, WM, WN>(acc, stage + warp_row * STRIDE, stage + (ROWS + warp_column) * STRIDE);
    }
    cp_async_wait<0>();
    store_sums<WM, WN>(c, acc, row + warp_row, column + warp_column, m, n, c_stride);
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
