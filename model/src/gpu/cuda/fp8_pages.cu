// Keys and values on their way into pages in E4M3: what `norm_rope_pages` (or, without norms, `rope_pages`) does to a token's heads,
// and a scale for each head of keys and of values. See ops/paged_attention/.
#include "paged.cuh"
#include "rope.cuh"

// Token blockIdx.x. A warp takes a head at a time, its numbers in shared memory (d floats a warp). Queries are normed and rotated in
// place, rounded where the other two kernels round them. Keys are rounded once, to codes: of norms and rotation in f32, which is
// not fused, so that the codes are a CPU's. Weights are null where there are no norms, cos and sin where half is 0.
template <class T>
__device__ void write_fp8_pages(T* __restrict__ qkv, uint8_t* __restrict__ keys, uint8_t* __restrict__ values,
                                float* __restrict__ key_scales, float* __restrict__ value_scales,
                                const T* __restrict__ query_weight, const T* __restrict__ key_weight,
                                const float* __restrict__ cos, const float* __restrict__ sin,
                                const uint32_t* __restrict__ position, const uint32_t* __restrict__ slots, int heads, int kv_heads,
                                int d, int half, float epsilon, float offset) {
    DYNAMIC_SHARED(dynamic);
    const uint32_t slot = slots[blockIdx.x];
    if (slot == NO_SLOT) return;
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, rotated = heads + kv_heads;
    float* numbers = reinterpret_cast<float*>(dynamic) + warp * d;
    T* row = qkv + (int64_t)blockIdx.x * (rotated + kv_heads) * d;
    const int64_t at = (int64_t)position[blockIdx.x] * half;
    // The row of head 0 of this token's page and place.
    const int64_t place = (int64_t)(slot / PAGE) * kv_heads * PAGE + slot % PAGE;
    for (int head = warp; head < rotated + kv_heads; head += warps) {
        T* from = row + head * d;
        const bool is_query = head < heads, is_value = head >= rotated;
        const T* weight = is_query ? query_weight : key_weight;
        if (weight && !is_value) {
            float squares = 0;
            for (int i = lane; i < d; i += WARP) squares += to_float(from[i]) * to_float(from[i]);
            const float scale = 1.0f / sqrtf(warp_sum(squares) / d + epsilon);
            for (int i = lane; i < d; i += WARP) {
                const float normed = to_float(from[i]) * scale * (to_float(weight[i]) + offset);
                numbers[i] = is_query ? to_float(of_float<T>(normed)) : normed;
            }
        } else {
            for (int i = lane; i < d; i += WARP) numbers[i] = to_float(from[i]);
        }
        __syncwarp();
        for (int i = lane; i < half && !is_value; i += WARP) {
            const float c = cos[at + i], s = sin[at + i], u = numbers[i], v = numbers[half + i];
            numbers[i] = plus(times(u, c), -times(v, s));
            numbers[half + i] = plus(times(v, c), times(u, s));
        }
        __syncwarp();
        if (is_query) {
            for (int i = lane; i < d; i += WARP) from[i] = of_float<T>(numbers[i]);
        } else {
            float largest = 0;
            for (int i = lane; i < d; i += WARP) {
                const float size = fabsf(numbers[i]);
                // NaN, too, is larger than all.
                largest = fmaxf(largest, size < INFINITY ? size : INFINITY);
            }
            const float scale = e4m3_scale(warp_max(largest));
            const int64_t to = place + (int64_t)(head - (is_value ? rotated : heads)) * PAGE;
            uint8_t* codes = (is_value ? values : keys) + to * d;
            for (int i = lane; i < d; i += WARP) codes[i] = to_e4m3(numbers[i] / scale);
            if (lane == 0) (is_value ? value_scales : key_scales)[to] = scale;
        }
        // The next head takes the same place.
        __syncwarp();
    }
}

FOR_BOTH(write_fp8_pages, write_fp8_pages,
         (bf16 * qkv, uint8_t* keys, uint8_t* values, float* key_scales, float* value_scales, const bf16* query_weight,
          const bf16* key_weight, const float* cos, const float* sin, const uint32_t* position, const uint32_t* slots, int heads,
          int kv_heads, int d, int half, float epsilon, float offset),
         (float* qkv, uint8_t* keys, uint8_t* values, float* key_scales, float* value_scales, const float* query_weight,
          const float* key_weight, const float* cos, const float* sin, const uint32_t* position, const uint32_t* slots, int heads,
          int kv_heads, int d, int half, float epsilon, float offset),
         (qkv, keys, values, key_scales, value_scales, query_weight, key_weight, cos, sin, position, slots, heads, kv_heads, d, half,
          epsilon, offset))
