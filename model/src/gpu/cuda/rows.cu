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

// member[place of i among all rows, by index and then by i] = i: every thread counts the rows before its own. n² comparisons of
// numbers that a block has in shared memory: 16,384 rows are 268 million, a few tens of microseconds of a GPU.
extern "C" __global__ void order_rows(uint32_t* __restrict__ member, const uint32_t* __restrict__ index, int n) {
    STATIC_SHARED(uint32_t[256], tile);
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t own = i < n ? index[i] : 0;
    int place = 0;
    for (int base = 0; base < n; base += blockDim.x) {
        const int count = min((int)blockDim.x, n - base);
        __syncthreads();
        if (threadIdx.x < count) tile[threadIdx.x] = index[base + threadIdx.x];
        __syncthreads();
#pragma unroll 8
        for (int j = 0; j < count; j++) {
            const uint32_t other = tile[j];
            place += other < own || (other == own && base + j < i);
        }
    }
    if (i < n) member[place] = i;
}

// Adds to sum the `count` rows `at(0)`, `at(1)`, …, one after the other; four loads are under way at a time.
template <class T, class At>
__device__ __forceinline__ void add_in_order(float (&sum)[Vec<T>::N], const T* __restrict__ x, int width, int i, uint32_t count,
                                             At at) {
    constexpr int N = Vec<T>::N, AHEAD = 4;
    uint32_t m = 0;
    for (; m + AHEAD <= count; m += AHEAD) {
        Vec<T> v[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) v[a] = load_vec(x + (int64_t)at(m + a) * width + i);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += to_float(v[a].at[j]);
        }
    }
    for (; m < count; m++) {
        const Vec<T> v = load_vec(x + (int64_t)at(m) * width + i);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += to_float(v.at[j]);
    }
}

// sums[index[i]] += scale · Σ x[i] over all rows with this index, in the order of i. `member` are the rows ordered by index
// (`order_rows`); null where every index is there once, in any order. Block (b, part) begins at the b-th ordered row: it has
// work where that is the first of its index, and sums a part of the columns.
template <class T, class S>
__device__ void sum_rows(S* __restrict__ sums, const T* __restrict__ x, const uint32_t* __restrict__ index,
                         const uint32_t* __restrict__ member, int n, int width, float scale) {
    const int b = blockIdx.x;
    const uint32_t target = index[member ? member[b] : b];
    if (member && b > 0 && index[member[b - 1]] == target) return;
    // The end of the group: in doubling steps, then between the last two.
    const auto is_member = [&](uint32_t m) { return b + m < (uint32_t)n && index[member[b + m]] == target; };
    uint32_t count = 1, end = 1;
    if (member) {
        while (is_member(end)) count = end + 1, end *= 2;
        while (count < end) {
            const uint32_t middle = (count + end) / 2;
            if (is_member(middle)) count = middle + 1;
            else end = middle;
        }
    }
    const auto at = [&](uint32_t m) { return member ? member[b + m] : (uint32_t)b; };
    S* to = sums + (int64_t)target * width;
    constexpr int N = Vec<T>::N, M = Vec<S>::N;
    const int first = blockIdx.y * blockDim.x + threadIdx.x, step = gridDim.y * blockDim.x;
    if (is_vectorised<T>(width) && is_vectorised<S>(width)) {
        for (int i = first * N; i < width; i += step * N) {
            float total[N] = {};
            add_in_order(total, x, width, i, count, at);
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
    for (int i = first; i < width; i += step) {
        float total = 0;
        for (uint32_t m = 0; m < count; m++) total += to_float(x[(int64_t)at(m) * width + i]);
        to[i] = of_float<S>(to_float(to[i]) + scale * total);
    }
}

#define SUM_ROWS(name, T, S)                                                                                             \
    extern "C" __global__ void name(S* sums, const T* x, const uint32_t* index, const uint32_t* member, int n, int width, \
                                    float scale) {                                                                       \
        sum_rows<T, S>(sums, x, index, member, n, width, scale);                                                         \
    }
SUM_ROWS(sum_rows_bf16, bf16, bf16)
SUM_ROWS(sum_rows_f32, float, float)
SUM_ROWS(sum_rows_bf16_to_f32, bf16, float)
