// Products in FP8: rows of activations in E4M3 with a scale each, C [m, n] = (A · Bᵀ) · a_scale · b_scale for A [m, k], B [n, k] in
// E4M3. Sums run over k from the first number to the last, 32 at a time, in one thread's accumulator: a row of C has the same bits
// wherever it stands. See ops/fp8_product.rs.
#include "e4m3.cuh"
#include "warp_product.cuh"

// As many codes as one access writes.
template <int N>
struct __align__(N) Codes {
    uint8_t at[N];
};

// codes [rows, padded], scales [rows] of x [rows, width]: scale = largest / 448, code = x / scale; zeros from `width` on. A row of
// zeros has the scale 1. One block to a row.
template <class T>
__device__ void fp8_quantize(uint8_t* __restrict__ codes, float* __restrict__ scales, const T* __restrict__ x, int width,
                             int padded) {
    STATIC_SHARED(float[WARP], room);
    constexpr int N = Vec<T>::N;
    x += (int64_t)blockIdx.x * width;
    codes += (int64_t)blockIdx.x * padded;
    const bool vectorised = is_vectorised<T>(width);
    float largest = 0;
    if (vectorised) {
        for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
            const Vec<T> numbers = load_vec(x + i);
#pragma unroll
            for (int e = 0; e < N; e++) largest = fmaxf(largest, fabsf(to_float(numbers.at[e])));
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) largest = fmaxf(largest, fabsf(to_float(x[i])));
    }
    largest = block_max(largest, room);
    const float scale = largest > 0 ? largest / E4M3_MAX : 1.0f;
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    // `padded` is a multiple of 32, and so of N.
    for (int i = threadIdx.x * N; i < padded; i += blockDim.x * N) {
        Codes<N> out;
        if (vectorised && i < width) {
            const Vec<T> numbers = load_vec(x + i);
#pragma unroll
            for (int e = 0; e < N; e++) out.at[e] = to_e4m3(to_float(numbers.at[e]) / scale);
        } else {
#pragma unroll
            for (int e = 0; e < N; e++) out.at[e] = i + e < width ? to_e4m3(to_float(x[i + e]) / scale) : 0;
        }
        *vector_at<Codes<N>>(codes + i) = out;
    }
}

FOR_BOTH(fp8_quantize, fp8_quantize, (uint8_t* codes, float* scales, const bf16* x, int width, int padded),
         (uint8_t* codes, float* scales, const float* x, int width, int padded), (codes, scales, x, width, padded))

// Numbers of k to a stage, and stages on the way.
#define FP8_DEPTH 64
#define FP8_STAGES 4

template <>
struct MatrixUnit<uint8_t> {
    static __device__ __forceinline__ void add_product(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_e4m3_16x8x32(acc, a, b0, b1);
    }
};

// One block to ROWS × COLUMNS of C, its warps side by side in tiles of WM × WN; k is a multiple of 32.
template <class Out, int ROWS, int COLUMNS, int WM, int WN>
__device__ void fp8_product(Out* __restrict__ c, const uint8_t* __restrict__ a, const uint8_t* __restrict__ b,
                            const float* __restrict__ a_scales, const float* __restrict__ b_scales, int m, int n, int k,
                            int64_t c_stride) {
    constexpr int STRIDE = Tile<uint8_t, FP8_DEPTH>::STRIDE, STAGE = (ROWS + COLUMNS) * STRIDE;
    DYNAMIC_SHARED(dynamic);
    uint8_t* stages = dynamic;
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / (COLUMNS / WN) * WM, warp_column = warp % (COLUMNS / WN) * WN;
    const int steps = (k + FP8_DEPTH - 1) / FP8_DEPTH;
    const auto load = [&](int step) {
        if (step < steps) {
            uint8_t* to = stages + step % FP8_STAGES * STAGE;
            const int first = step * FP8_DEPTH, live = min(FP8_DEPTH, k - first);
            load_tile<uint8_t, FP8_DEPTH, ROWS>(to, a + first, k, live, m - row, [&](int r) { return (int64_t)row + r; });
            load_tile<uint8_t, FP8_DEPTH, COLUMNS>(to + ROWS * STRIDE, b + first, k, live, n - column,
                                                   [&](int r) { return (int64_t)column + r; });
        }
        cp_async_commit();
    };
    float acc[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) clear(acc[i]);
    for (int step = 0; step < FP8_STAGES - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
        cp_async_wait<FP8_STAGES - 2>();
        __syncthreads();
        // The stage that all warps have just left.
        load(step + FP8_STAGES - 1);
        const uint8_t* stage = stages + step % FP8_STAGES * STAGE;
        warp_product<FP8_DEPTH, WM, WN>(acc, stage + warp_row * STRIDE, stage + (ROWS + warp_column) * STRIDE);
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < WM / 16; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + warp_row + i * 16 + half * 8 + lane / 4;
            if (r >= m) continue;
            const float scale = a_scales[r];
#pragma unroll
            for (int j = 0; j < WN / 8; j++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int at = column + warp_column + j * 8 + lane % 4 * 2 + e;
                    if (at < n) c[r * c_stride + at] = of_float<Out>(times(times(acc[i][j][half * 2 + e], scale), b_scales[at]));
                }
            }
        }
    }
}

#define FP8_PRODUCT(name, Out, ROWS, COLUMNS, WM, WN)                                                                  \
    extern "C" __global__ void __launch_bounds__(ROWS / WM * COLUMNS / WN * 32)                                         \
        fp8_product_##name(Out* c, const uint8_t* a, const uint8_t* b, const float* a_scales, const float* b_scales,    \
                           int m, int n, int k, int64_t c_stride) {                                                     \
        fp8_product<Out, ROWS, COLUMNS, WM, WN>(c, a, b, a_scales, b_scales, m, n, k, c_stride);                        \
    }
// Few rows: many narrow blocks, so that all of the GPU fetches weights. Tiles as `CompiledFp8` in ops/fp8_product.rs has them.
FP8_PRODUCT(few_bf16, bf16, 32, 64, 32, 16)
FP8_PRODUCT(few_f32, float, 32, 64, 32, 16)
FP8_PRODUCT(many_bf16, bf16, 128, 128, 64, 32)
FP8_PRODUCT(many_f32, float, 128, 128, 64, 32)
