// The rotation of rope.cu and of rope_pages in paged_attention.cu.
#pragma once
#include "common.cuh"

// (a, b) ↦ (a cos − b sin, b cos + a sin), for elements of a head's two halves.
template <class T>
__device__ __forceinline__ void rotate(Vec<T>& a, Vec<T>& b, const float* cos, const float* sin, float sign) {
#pragma unroll
    for (int four = 0; four < Vec<T>::N; four += 4) {
        const Vec<float> c = load_vec(cos + four), s = load_vec(sin + four);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float u = to_float(a.at[four + j]), v = to_float(b.at[four + j]);
            a.at[four + j] = of_float<T>(u * c.at[j] - v * sign * s.at[j]);
            b.at[four + j] = of_float<T>(v * c.at[j] + u * sign * s.at[j]);
        }
    }
}
