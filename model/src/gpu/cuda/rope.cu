// Rotary embedding of the first `heads` heads of d of every row, in place: of the first 2 half numbers of each; see ops/rope.rs.
// sign is −1 for the backward.
#include "rope.cuh"

template <class T>
__device__ void rope(T* __restrict__ x, const float* __restrict__ cos, const float* __restrict__ sin,
                     const uint32_t* __restrict__ positions, int width, int heads, int d, int half,
                     float sign) {
    constexpr int N = Vec<T>::N;
    T* row = x + (int64_t)blockIdx.x * width;
    const int64_t at = (int64_t)positions[blockIdx.x] * half;
    if (half % N == 0 && d % N == 0 && is_vectorised<T>(width)) {
        const int steps = half / N;
        for (int item = threadIdx.x; item < heads * steps; item += blockDim.x) {
            const int i = item % steps * N;
            T* head = row + item / steps * d;
            Vec<T> a = load_vec(head + i), b = load_vec(head + half + i);
            rotate(a, b, cos + at + i, sin + at + i, sign);
            store_vec(head + i, a);
            store_vec(head + half + i, b);
        }
    } else {
        for (int item = threadIdx.x; item < heads * half; item += blockDim.x) {
            const int i = item % half;
            T* head = row + item / half * d;
            const float c = cos[at + i], s = sign * sin[at + i];
            const float u = to_float(head[i]), v = to_float(head[half + i]);
            head[i] = of_float<T>(u * c - v * s);
            head[half + i] = of_float<T>(v * c + u * s);
        }
    }
}

FOR_BOTH(rope, rope,
         (bf16 * x, const float* cos, const float* sin, const uint32_t* positions, int width, int heads, int d,
          int half, float sign),
         (float* x, const float* cos, const float* sin, const uint32_t* positions, int width, int heads, int d,
          int half, float sign),
         (x, cos, sin, positions, width, heads, d, half, sign))
