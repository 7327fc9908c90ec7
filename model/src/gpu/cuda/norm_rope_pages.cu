// As `rope_pages` of paged_attention.cu, with the norms of queries and keys (Qwen 3's, Gemma 3's) on the way: what `heads_norm`, then
// that kernel, would do in three passes over queries and keys, in one. See ops/paged_attention/.
#include "rope.cuh"

#define PAGE_SLOTS 16
#define WITHOUT_SLOT 0xffffffffu

// Token blockIdx.x. A warp takes a head at a time: its norm with the sum of squares in the order of `heads_norm`, rounded as that
// leaves it, in shared memory (d floats a warp); then the rotation of its first 2 half numbers, to where `rope_pages` puts it.
// Values go to their page as they are.
template <class T>
__device__ void norm_rope_pages(T* __restrict__ qkv, T* __restrict__ keys, T* __restrict__ values,
                                const T* __restrict__ query_weight, const T* __restrict__ key_weight,
                                const float* __restrict__ cos, const float* __restrict__ sin,
                                const uint32_t* __restrict__ position, const uint32_t* __restrict__ slots, int heads, int kv_heads,
                                int d, int half, float epsilon, float offset) {
    DYNAMIC_SHARED(dynamic);
    const uint32_t slot = slots[blockIdx.x];
    if (slot == WITHOUT_SLOT) return;
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rotated = heads + kv_heads;
    float* normed = reinterpret_cast<float*>(dynamic) + warp * d;
    T* row = qkv + (int64_t)blockIdx.x * (rotated + kv_heads) * d;
    const int64_t at = (int64_t)position[blockIdx.x] * half;
    // Where head 0 of this token's page and place is.
    const int64_t to = ((int64_t)(slot / PAGE_SLOTS) * kv_heads * PAGE_SLOTS + slot % PAGE_SLOTS) * d;
    for (int head = warp; head < rotated; head += warps) {
        const T* from = row + head * d;
        const T* weight = head < heads ? query_weight : key_weight;
        T* target = head < heads ? row + head * d : keys + to + (int64_t)(head - heads) * PAGE_SLOTS * d;
        float squares = 0;
        for (int i = lane; i < d; i += WARP) squares += to_float(from[i]) * to_float(from[i]);
        const float scale = 1.0f / sqrtf(warp_sum(squares) / d + epsilon);
        for (int i = lane; i < d; i += WARP)
            normed[i] = to_float(of_float<T>(to_float(from[i]) * scale * (to_float(weight[i]) + offset)));
        __syncwarp();
        for (int i = lane; i < half; i += WARP) {
            const float c = cos[at + i], s = sin[at + i], u = normed[i], v = normed[half + i];
            target[i] = of_float<T>(u * c - v * s);
            target[half + i] = of_float<T>(v * c + u * s);
        }
        for (int i = 2 * half + lane; i < d; i += WARP) target[i] = of_float<T>(normed[i]);
        // The next head takes the same place.
        __syncwarp();
    }
    constexpr int N = Vec<T>::N;
    if (d % N == 0) {
        for (int item = threadIdx.x; item < kv_heads * (d / N); item += blockDim.x) {
            const int head = item / (d / N), i = item % (d / N) * N;
            store_vec(values + to + (int64_t)head * PAGE_SLOTS * d + i, load_vec(row + (rotated + head) * d + i));
        }
    } else {
        for (int item = threadIdx.x; item < kv_heads * d; item += blockDim.x)
            values[to + (int64_t)(item / d) * PAGE_SLOTS * d + item % d] = row[rotated * d + item];
    }
}

FOR_BOTH(norm_rope_pages, norm_rope_pages,
         (bf16 * qkv, bf16* keys, bf16* values, const bf16* query_weight, const bf16* key_weight, const float* cos,
          const float* sin, const uint32_t* position, const uint32_t* slots, int heads, int kv_heads, int d, int half,
          float epsilon, float offset),
         (float* qkv, float* keys, float* values, const float* query_weight, const float* key_weight, const float* cos,
          const float* sin, const uint32_t* position, const uint32_t* slots, int heads, int kv_heads, int d, int half,
          float epsilon, float offset),
         (qkv, keys, values, query_weight, key_weight, cos, sin, position, slots, heads, kv_heads, d, half, epsilon, offset))
