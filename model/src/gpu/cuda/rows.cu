// Rows by index: embedding, selection, and the sums that are their backwards; see ops/rows.rs and embedding.rs.
#include "common.cuh"

// out[blockIdx.x] = scale · table[index[blockIdx.x]].
template <class T>
__device__ void gather_rows(T* __restrict__ out, const T* __restrict__ table, const uint32_t* __restrict__ index,
                            int width, float scale) {
    constexpr int N = Vec<T>::N;
    const T* from = table + (int64_t)index[blockIdx.x] * width;
    T* to = out + (int64_t)blockIdx.x * width;
    if (is_vectorised<T>(width)) {
        for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
            Vec<T> v = load_vec(from + i);
            if (scale != 1.0f) {
#pragma unroll
                for (int j = 0; j < N; j++) v.at[j] = of_float<T>(to_float(v.at[j]) * scale);
            }
            store_vec(to + i, v);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = of_float<T>(to_float(from[i]) * scale);
    }
}

FOR_BOTH(gather_rows, gather_rows,
         (bf16 * out, const bf16* table, const uint32_t* index, int width, float scale),
         (float* out, const float* table, const uint32_t* index, int width, float scale),
         (out, table, index, width, scale))

// sums[target[g]] += scale · Σ x[member[m]] for m in start[g]..start[g + 1]; one block to a group, targets distinct, so
// that the order of every sum is fixed.
template <class T, class S>
__device__ void sum_rows(S* __restrict__ sums, const T* __restrict__ x, const uint32_t* __restrict__ target,
                         const uint32_t* __restrict__ start, const uint32_t* __restrict__ member, int width,
                         float scale) {
    const uint32_t begin = start[blockIdx.x], end = start[blockIdx.x + 1];
    S* to = sums + (int64_t)target[blockIdx.x] * width;
    constexpr int N = Vec<T>::N, M = Vec<S>::N;
    if (is_vectorised<T>(width) && is_vectorised<S>(width)) {
        for (int i = threadIdx.x * N; i < width; i += blockDim.x * N) {
            float total[N] = {};
            for (uint32_t m = begin; m < end; m++) {
                const Vec<T> v = load_vec(x + (int64_t)member[m] * width + i);
#pragma unroll
                for (int j = 0; j < N; j++) total[j] += to_float(v.at[j]);
            }
#pragma unroll
            for (int part = 0; part < N; part += M) {
                Vec<S> sum = load_vec(to + i + part);
#pragma unroll
                for (int j = 0; j < M; j++) sum.at[j] = of_float<S>(to_float(sum.at[j]) + scale * total[part + j]);
                store_vec(to + i + part, sum);
            }
        }
        return;
    }
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float total = 0;
        for (uint32_t m = begin; m < end; m++) total += to_float(x[(int64_t)member[m] * width + i]);
        to[i] = of_float<S>(to_float(to[i]) + scale * total);
    }
}

#define SUM_ROWS(name, T, S)                                                                                             \
    extern "C" __global__ void name(S* sums, const T* x, const uint32_t* target, const uint32_t* start,                  \
                                    const uint32_t* member, int width, float scale) {                                    \
        sum_rows<T, S>(sums, x, target, start, member, width, scale);                                                    \
    }
SUM_ROWS(sum_rows_bf16, bf16, bf16)
SUM_ROWS(sum_rows_f32, float, float)
SUM_ROWS(sum_rows_bf16_to_f32, bf16, float)
