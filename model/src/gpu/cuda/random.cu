// Fresh weights: normal numbers that depend on a key and their place alone; see `random_tensor` in weights.rs.
#include "common.cuh"

// SplitMix64's step and finaliser.
__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

__device__ __forceinline__ double unit(uint64_t bits) { return ((double)(bits >> 11) + 0.5) / 9007199254740992.0; }

// out[i] = deviation · the i-th normal number of the stream `key`, by Box and Muller's transform in f64.
template <class T>
__device__ void random_normal(T* __restrict__ out, int64_t key, float deviation, int64_t n) {
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
        const double radius = sqrt(-2.0 * log(unit(mix((uint64_t)key ^ mix(2 * (uint64_t)i)))));
        const double angle = 6.283185307179586 * unit(mix((uint64_t)key ^ mix(2 * (uint64_t)i + 1)));
        out[i] = of_float<T>(deviation * (float)(radius * cos(angle)));
    }
}

FOR_BOTH(random_normal, random_normal, (bf16 * out, int64_t key, float deviation, int64_t n),
         (float* out, int64_t key, float deviation, int64_t n), (out, key, deviation, n))
