// Root-mean-square norm, see ops/rms_norm/ for the equations.
#include "common.cuh"

// f(i, x) for this thread's elements of a row of h, sixteen bytes at a time where they are aligned.
template <class T, class F>
__device__ __forceinline__ void for_row(int h, F f) {
    if (is_vectorised<T>(h)) {
        for (int i = threadIdx.x * Vec<T>::N; i < h; i += blockDim.x * Vec<T>::N) f(i, Vec<T>::N);
    } else {
        for (int i = threadIdx.x; i < h; i += blockDim.x) f(i, 1);
    }
}

// y = norm(x + delta) · w, and sum = x + delta where there is a delta. One block to a row.
template <class T>
__device__ void rms_norm(T* __restrict__ y, T* __restrict__ sum, const T* __restrict__ x, const T* __restrict__ delta,
                         const T* __restrict__ weight, int h, float epsilon, float offset) {
    STATIC_SHARED(float[32], room);
    const int64_t at = (int64_t)blockIdx.x * h;
    constexpr int N = Vec<T>::N;
    float squares = 0;
    for_row<T>(h, [&](int i, int n) {
        if (n == N) {
            Vec<T> v = load_vec(x + at + i);
            if (delta) {
                const Vec<T> d = load_vec(delta + at + i);
#pragma unroll
                for (int j = 0; j < N; j++) v.at[j] = of_float<T>(to_float(v.at[j]) + to_float(d.at[j]));
                store_vec(sum + at + i, v);
            }
#pragma unroll
            for (int j = 0; j < N; j++) squares += to_float(v.at[j]) * to_float(v.at[j]);
        } else {
            T v = x[at + i];
            if (delta) sum[at + i] = v = of_float<T>(to_float(v) + to_float(delta[at + i]));
            squares += to_float(v) * to_float(v);
        }
    });
    const float scale = 1.0f / sqrtf(block_sum(squares, room) / h + epsilon);
    const T* from = delta ? sum : x;
    for_row<T>(h, [&](int i, int n) {
        if (n == N) {
            Vec<T> v = load_vec(from + at + i);
            const Vec<T> w = load_vec(weight + i);
#pragma unroll
            for (int j = 0; j < N; j++) v.at[j] = of_float<T>(to_float(v.at[j]) * scale * (to_float(w.at[j]) + offset));
            store_vec(y + at + i, v);
        } else {
            y[at + i] = of_float<T>(to_float(from[at + i]) * scale * (to_float(weight[i]) + offset));
        }
    });
}

FOR_BOTH(rms_norm, rms_norm,
         (bf16 * y, bf16* sum, const bf16* x, const bf16* delta, const bf16* weight, int h, float epsilon, float offset),
         (float* y, float* sum, const float* x, const float* delta, const float* weight, int h, float epsilon,
          float offset),
         (y, sum, x, delta, weight, h, epsilon, offset))

// For rows of any width: what `rms_norm_backward_rows` does not take.
// dx += scale · w · dy − x · scale³ · (Σ x w dy) / h for `rows_per_block` rows; the weight's gradient over these rows goes
// to partial [blocks, h], summed by `sum_partials` in the blocks' order. Dynamic shared memory: h floats.
template <class T>
__device__ void rms_norm_backward(T* __restrict__ dx, float* __restrict__ partial, const T* __restrict__ x,
                                  const T* __restrict__ weight, const T* __restrict__ dy, int rows, int rows_per_block,
                                  int h, float epsilon, float offset) {
    STATIC_SHARED(float[32], room);
    DYNAMIC_SHARED(dynamic);
    float* d_weight = reinterpret_cast<float*>(dynamic);
    constexpr int N = Vec<T>::N;
    if (partial) {
        for_row<T>(h, [&](int i, int n) {
            for (int j = 0; j < n; j++) d_weight[i + j] = 0;
        });
    }
    const int first = blockIdx.x * rows_per_block;
    for (int row = first; row < min(first + rows_per_block, rows); row++) {
        const int64_t at = (int64_t)row * h;
        float squares = 0, dot = 0;
        for_row<T>(h, [&](int i, int n) {
            if (n == N) {
                const Vec<T> v = load_vec(x + at + i), w = load_vec(weight + i), d = load_vec(dy + at + i);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const float a = to_float(v.at[j]);
                    squares += a * a;
                    dot += a * (to_float(w.at[j]) + offset) * to_float(d.at[j]);
                }
            } else {
                const float a = to_float(x[at + i]);
                squares += a * a;
                dot += a * (to_float(weight[i]) + offset) * to_float(dy[at + i]);
            }
        });
        const float scale = 1.0f / sqrtf(block_sum(squares, room) / h + epsilon);
        const float factor = block_sum(dot, room) * scale * scale * scale / h;
        for_row<T>(h, [&](int i, int n) {
            if (n == N) {
                const Vec<T> v = load_vec(x + at + i), w = load_vec(weight + i), d = load_vec(dy + at + i);
                Vec<T> out = load_vec(dx + at + i);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const float a = to_float(v.at[j]), g = to_float(d.at[j]);
                    out.at[j] = of_float<T>(to_float(out.at[j]) + scale * (to_float(w.at[j]) + offset) * g - a * factor);
                    if (partial) d_weight[i + j] += a * scale * g;
                }
                store_vec(dx + at + i, out);
            } else {
                const float a = to_float(x[at + i]), g = to_float(dy[at + i]);
                dx[at + i] =
                    of_float<T>(to_float(dx[at + i]) + scale * (to_float(weight[i]) + offset) * g - a * factor);
                if (partial) d_weight[i] += a * scale * g;
            }
        });
    }
    if (partial) {
        for_row<T>(h, [&](int i, int n) {
            for (int j = 0; j < n; j++) partial[(int64_t)blockIdx.x * h + i + j] = d_weight[i + j];
        });
    }
}

FOR_BOTH(rms_norm_backward, rms_norm_backward,
         (bf16 * dx, float* partial, const bf16* x, const bf16* weight, const bf16* dy, int rows, int rows_per_block,
          int h, float epsilon, float offset),
         (float* dx, float* partial, const float* x, const float* weight, const float* dy, int rows, int rows_per_block,
          int h, float epsilon, float offset),
         (dx, partial, x, weight, dy, rows, rows_per_block, h, epsilon, offset))

// As `rms_norm_backward`, in one pass over rows of whole vectors, at most P to a thread: a row of x, dy and dx and the weight
// stand in registers, and so does this thread's part of the weight's gradient. Where they leave room for it (P = 1), the next
// row's loads are under way while this row is summed. The same sums in the same order.
template <class T, int P>
__device__ __forceinline__ void rms_norm_backward_rows(T* __restrict__ dx, float* __restrict__ partial,
                                                       const T* __restrict__ x, const T* __restrict__ weight,
                                                       const T* __restrict__ dy, int rows, int rows_per_block, int h,
                                                       float epsilon, float offset) {
    constexpr int N = Vec<T>::N;
    STATIC_SHARED(float[2][2 * WARP], room);
    const int first = blockIdx.x * rows_per_block, end = min(first + rows_per_block, rows);
    Vec<T> w[P], next_x[P], next_d[P];
    float d_weight[P][N] = {};
#pragma unroll
    for (int p = 0; p < P; p++) {
        const int i = (p * blockDim.x + threadIdx.x) * N;
        if (i >= h) break;
        w[p] = load_vec(weight + i);
        if (P == 1 && first < end) {
            next_x[p] = load_vec(x + (int64_t)first * h + i);
            next_d[p] = load_vec(dy + (int64_t)first * h + i);
        }
    }
    for (int row = first; row < end; row++) {
        const int64_t at = (int64_t)row * h;
        Vec<T> v[P], d[P], out[P];
        float squares = 0, dot = 0;
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int i = (p * blockDim.x + threadIdx.x) * N;
            if (i >= h) break;
            if (P == 1) {
                v[p] = next_x[p], d[p] = next_d[p];
            } else {
                v[p] = load_vec(x + at + i), d[p] = load_vec(dy + at + i);
            }
            out[p] = load_vec(dx + at + i);
            if (P == 1 && row + 1 < end) {
                next_x[p] = load_vec(x + at + h + i);
                next_d[p] = load_vec(dy + at + h + i);
            }
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float a = to_float(v[p].at[j]);
                squares += a * a;
                dot += a * (to_float(w[p].at[j]) + offset) * to_float(d[p].at[j]);
            }
        }
        block_sum_pair(squares, dot, room[row % 2]);
        const float scale = 1.0f / sqrtf(squares / h + epsilon);
        const float factor = dot * scale * scale * scale / h;
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int i = (p * blockDim.x + threadIdx.x) * N;
            if (i >= h) break;
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float a = to_float(v[p].at[j]), g = to_float(d[p].at[j]);
                out[p].at[j] =
                    of_float<T>(to_float(out[p].at[j]) + scale * (to_float(w[p].at[j]) + offset) * g - a * factor);
                d_weight[p][j] += a * scale * g;
            }
            store_vec(dx + at + i, out[p]);
        }
    }
    if (!partial) return;
#pragma unroll
    for (int p = 0; p < P; p++) {
        const int i = (p * blockDim.x + threadIdx.x) * N;
        if (i >= h) break;
        for (int j = 0; j < N; j++) partial[(int64_t)blockIdx.x * h + i + j] = d_weight[p][j];
    }
}

#define RMS_NORM_BACKWARD_ROWS(name, T, P)                                                                               \
    extern "C" __global__ void __launch_bounds__(512)                                                                    \
        name(T* dx, float* partial, const T* x, const T* weight, const T* dy, int rows, int rows_per_block, int h,       \
             float epsilon, float offset) {                                                                              \
        rms_norm_backward_rows<T, P>(dx, partial, x, weight, dy, rows, rows_per_block, h, epsilon, offset);              \
    }
RMS_NORM_BACKWARD_ROWS(rms_norm_backward_1_bf16, bf16, 1)
RMS_NORM_BACKWARD_ROWS(rms_norm_backward_2_bf16, bf16, 2)
RMS_NORM_BACKWARD_ROWS(rms_norm_backward_1_f32, float, 1)
RMS_NORM_BACKWARD_ROWS(rms_norm_backward_2_f32, float, 2)

// sum[i] += Σ_b partial[b][i], in one order: every sixteenth b by a thread, these sums one after the other. 512 threads to 32
// columns.
extern "C" __global__ void sum_partials(float* __restrict__ sum, const float* __restrict__ partial, int blocks, int n) {
    constexpr int GROUPS = 16;
    STATIC_SHARED(float[GROUPS][WARP], room);
    const int group = threadIdx.x / WARP, lane = threadIdx.x % WARP, i = blockIdx.x * WARP + lane;
    float total = 0;
    if (i < n) {
        for (int b = group; b < blocks; b += GROUPS) total += partial[(int64_t)b * n + i];
    }
    room[group][lane] = total;
    __syncthreads();
    if (group == 0 && i < n) {
        for (int g = 1; g < GROUPS; g++) total += room[g][lane];
        sum[i] += total;
    }
}

// Norm of each of `heads` heads of d elements, in place in the columns from `first` on. One warp to a head.
template <class T>
__device__ void heads_norm(T* __restrict__ x, const T* __restrict__ weight, int rows, int width, int first, int heads,
                           int d, float epsilon, float offset) {
    const int64_t item = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const int lane = threadIdx.x % WARP;
    if (item >= (int64_t)rows * heads) return;
    T* head = x + item / heads * width + first + item % heads * d;
    float squares = 0;
    for (int i = lane; i < d; i += WARP) squares += to_float(head[i]) * to_float(head[i]);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / d + epsilon);
    for (int i = lane; i < d; i += WARP)
        head[i] = of_float<T>(to_float(head[i]) * scale * (to_float(weight[i]) + offset));
}

FOR_BOTH(heads_norm, heads_norm,
         (bf16 * x, const bf16* weight, int rows, int width, int first, int heads, int d, float epsilon, float offset),
         (float* x, const float* weight, int rows, int width, int first, int heads, int d, float epsilon, float offset),
         (x, weight, rows, width, first, heads, d, epsilon, offset))

// The backward of `heads_norm`: dx in place, given x before the norm. One warp to a block; the weight's gradient of its
// heads goes to partial [blocks, d]. Dynamic shared memory: d floats.
template <class T>
__device__ void heads_norm_backward(T* __restrict__ dx, float* __restrict__ partial, const T* __restrict__ x,
                                    const T* __restrict__ weight, int rows, int width, int first, int heads, int d,
                                    float epsilon, float offset) {
    DYNAMIC_SHARED(dynamic);
    float* d_weight = reinterpret_cast<float*>(dynamic);
    const int lane = threadIdx.x;
    for (int i = lane; i < d; i += WARP) d_weight[i] = 0;
    for (int64_t item = blockIdx.x; item < (int64_t)rows * heads; item += gridDim.x) {
        const int64_t at = item / heads * width + first + item % heads * d;
        float squares = 0, dot = 0;
        for (int i = lane; i < d; i += WARP) {
            const float a = to_float(x[at + i]);
            squares += a * a;
            dot += a * (to_float(weight[i]) + offset) * to_float(dx[at + i]);
        }
        const float scale = 1.0f / sqrtf(warp_sum(squares) / d + epsilon);
        const float factor = warp_sum(dot) * scale * scale * scale / d;
        for (int i = lane; i < d; i += WARP) {
            const float a = to_float(x[at + i]), g = to_float(dx[at + i]);
            dx[at + i] = of_float<T>(scale * (to_float(weight[i]) + offset) * g - a * factor);
            d_weight[i] += a * scale * g;
        }
    }
    if (partial)
        for (int i = lane; i < d; i += WARP) partial[(int64_t)blockIdx.x * d + i] = d_weight[i];
}

FOR_BOTH(heads_norm_backward, heads_norm_backward,
         (bf16 * dx, float* partial, const bf16* x, const bf16* weight, int rows, int width, int first, int heads, int d,
          float epsilon, float offset),
         (float* dx, float* partial, const float* x, const float* weight, int rows, int width, int first, int heads,
          int d, float epsilon, float offset),
         (dx, partial, x, weight, rows, width, first, heads, d, epsilon, offset))
