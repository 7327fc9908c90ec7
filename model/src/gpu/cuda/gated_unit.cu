// act(gate) · up and its gradient; see ops/gated_unit.rs. activation: 0 SiLU, 1 tanh-GELU.
#include "common.cuh"

#define GELU_SCALE 0.7978845608028654f
#define GELU_CUBIC 0.044715f

// The activation and its slope at g.
template <class T>
__device__ __forceinline__ void activate(int activation, float g, float& value, float& slope) {
    if (activation == 0) {
        // e⁸⁰ keeps the divisor in the fast division's range; σ is 0 to bf16 long before.
        const float s = inverse_of<T>(1.0f + exp_of<T>(g != g ? g : fminf(-g, 80.0f)));
        value = g * s;
        slope = s + value * (1.0f - s);
    } else {
        const float t = tanh_of<T>(GELU_SCALE * (g + GELU_CUBIC * g * g * g));
        const float inner = GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * g * g);
        value = 0.5f * g * (1.0f + t);
        slope = 0.5f * (1.0f + t) + 0.5f * g * (1.0f - t * t) * inner;
    }
}

// gate_up [t, 2·width] → y [t, width]. One row to blockIdx.y, columns over blockIdx.x.
template <class T>
__device__ void gated_unit(T* __restrict__ y, const T* __restrict__ gate_up, int width, int activation) {
    constexpr int N = Vec<T>::N;
    const T* gate = gate_up + (int64_t)blockIdx.y * 2 * width;
    T* out = y + (int64_t)blockIdx.y * width;
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    float value, slope;
    if (is_vectorised<T>(width)) {
        for (int i = thread * N; i < width; i += threads * N) {
            Vec<T> g = load_vec(gate + i);
            const Vec<T> u = load_vec(gate + width + i);
#pragma unroll
            for (int j = 0; j < N; j++) {
                activate<T>(activation, to_float(g.at[j]), value, slope);
                g.at[j] = of_float<T>(value * to_float(u.at[j]));
            }
            store_vec(out + i, g);
        }
    } else {
        for (int i = thread; i < width; i += threads) {
            activate<T>(activation, to_float(gate[i]), value, slope);
            out[i] = of_float<T>(value * to_float(gate[width + i]));
        }
    }
}

FOR_BOTH(gated_unit, gated_unit, (bf16 * y, const bf16* gate_up, int width, int activation),
         (float* y, const float* gate_up, int width, int activation), (y, gate_up, width, activation))

// Overwrites gate_up with its gradient.
template <class T>
__device__ void gated_unit_backward(T* __restrict__ gate_up, const T* __restrict__ dy, int width, int activation) {
    constexpr int N = Vec<T>::N;
    T* gate = gate_up + (int64_t)blockIdx.y * 2 * width;
    const T* d = dy + (int64_t)blockIdx.y * width;
    const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    float value, slope;
    if (is_vectorised<T>(width)) {
        for (int i = thread * N; i < width; i += threads * N) {
            Vec<T> g = load_vec(gate + i), u = load_vec(gate + width + i);
            const Vec<T> dv = load_vec(d + i);
#pragma unroll
            for (int j = 0; j < N; j++) {
                activate<T>(activation, to_float(g.at[j]), value, slope);
                const float dj = to_float(dv.at[j]);
                g.at[j] = of_float<T>(dj * to_float(u.at[j]) * slope);
                u.at[j] = of_float<T>(dj * value);
            }
            store_vec(gate + i, g);
            store_vec(gate + width + i, u);
        }
    } else {
        for (int i = thread; i < width; i += threads) {
            activate<T>(activation, to_float(gate[i]), value, slope);
            const float dj = to_float(d[i]);
            gate[i] = of_float<T>(dj * to_float(gate[width + i]) * slope);
            gate[width + i] = of_float<T>(dj * value);
        }
    }
}

FOR_BOTH(gated_unit_backward, gated_unit_backward, (bf16 * gate_up, const bf16* dy, int width, int activation),
         (float* gate_up, const float* dy, int width, int activation), (gate_up, dy, width, activation))
