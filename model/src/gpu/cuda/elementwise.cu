// Sums, scales and biases; see ops/elementwise.rs.
#include "common.cuh"

// out = x + y; out may be x.
template <class T>
__device__ void add(T* out, const T* x, const T* y, int64_t n) {
    constexpr int N = Vec<T>::N;
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (int64_t)gridDim.x * blockDim.x;
    const int64_t whole = n / N * N;
    for (int64_t i = thread * N; i < whole; i += threads * N) {
        Vec<T> a = load_vec(x + i);
        const Vec<T> b = load_vec(y + i);
#pragma unroll
        for (int j = 0; j < N; j++) a.at[j] = of_float<T>(to_float(a.at[j]) + to_float(b.at[j]));
        store_vec(out + i, a);
    }
    if (thread < n - whole) out[whole + thread] = of_float<T>(to_float(x[whole + thread]) + to_float(y[whole + thread]));
}

FOR_BOTH(add, add, (bf16 * out, const bf16* x, const bf16* y, int64_t n),
         (float* out, const float* x, const float* y, int64_t n), (out, x, y, n))

extern "C" __global__ void zero(float* __restrict__ x, int64_t n) {
    constexpr int N = Vec<float>::N;
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (int64_t)gridDim.x * blockDim.x;
    const int64_t whole = n / N * N;
    const Vec<float> zeros = {{0, 0, 0, 0}};
    for (int64_t i = thread * N; i < whole; i += threads * N) store_vec(x + i, zeros);
    if (thread < n - whole) x[whole + thread] = 0;
}

template <class T>
__device__ void scale(T* x, float factor, int64_t n) {
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads)
        x[i] = of_float<T>(to_float(x[i]) * factor);
}

FOR_BOTH(scale, scale, (bf16 * x, float factor, int64_t n), (float* x, float factor, int64_t n), (x, factor, n))

// Adds bias [n] to the columns from `first` on of every row (blockIdx.y).
template <class T>
__device__ void add_bias(T* __restrict__ x, const T* __restrict__ bias, int width, int first, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    T* at = x + (int64_t)blockIdx.y * width + first + i;
    *at = of_float<T>(to_float(*at) + to_float(bias[i]));
}

FOR_BOTH(add_bias, add_bias, (bf16 * x, const bf16* bias, int width, int first, int n),
         (float* x, const float* bias, int width, int first, int n), (x, bias, width, first, n))

// partial [gridDim.y, n]: sums of the columns from `first` on over each block's rows.
template <class T>
__device__ void column_sums(float* __restrict__ partial, const T* __restrict__ dy, int rows, int rows_per_block,
                            int width, int first, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int begin = blockIdx.y * rows_per_block;
    float total = 0;
    for (int row = begin; row < min(begin + rows_per_block, rows); row++)
        total += to_float(dy[(int64_t)row * width + first + i]);
    partial[(int64_t)blockIdx.y * n + i] = total;
}

FOR_BOTH(column_sums, column_sums,
         (float* partial, const bf16* dy, int rows, int rows_per_block, int width, int first, int n),
         (float* partial, const float* dy, int rows, int rows_per_block, int width, int first, int n),
         (partial, dy, rows, rows_per_block, width, first, n))

// c·tanh(z / c) in place.
extern "C" __global__ void soft_cap(float* z, float cap, int64_t n) {
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) z[i] = cap * tanhf(z[i] / cap);
}
