// Attention of new tokens over the paged cache, keys and values [pages, kv_heads, 16, d]; see kernels/paged_attention.rs.
#include "common.cuh"

#define PAGE 16

// Token blockIdx.x: its keys and values go to slot `slots[token]` (page · 16 + place).
template <class T>
__device__ void write_pages(T* __restrict__ keys, T* __restrict__ values, const T* __restrict__ qkv,
                            const uint32_t* __restrict__ slots, int heads, int kv_heads, int d) {
    const uint32_t page = slots[blockIdx.x] / PAGE, place = slots[blockIdx.x] % PAGE;
    const T* k = qkv + (int64_t)blockIdx.x * (heads + 2 * kv_heads) * d + (int64_t)heads * d;
    const T* v = k + (int64_t)kv_heads * d;
    for (int i = threadIdx.x; i < kv_heads * d; i += blockDim.x) {
        const int64_t to = (((int64_t)page * kv_heads + i / d) * PAGE + place) * d + i % d;
        keys[to] = k[i];
        values[to] = v[i];
    }
}

FOR_BOTH(write_pages, write_pages,
         (bf16 * keys, bf16* values, const bf16* qkv, const uint32_t* slots, int heads, int kv_heads, int d),
         (float* keys, float* values, const float* qkv, const uint32_t* slots, int heads, int kv_heads, int d),
         (keys, values, qkv, slots, heads, kv_heads, d))

// One block to a query head of a token, its warps taking the pages in turn; their parts are joined in the warps' order, so
// that a token's bits do not depend on the rest of the step. Two lanes share a key: each multiplies half of the head.
// Dynamic shared memory: (1 + warps) · d + 2 · warps floats.
template <class T>
__device__ void attend_pages(T* __restrict__ out, const T* __restrict__ qkv, const T* __restrict__ keys,
                             const T* __restrict__ values, const uint32_t* __restrict__ tables,
                             const uint32_t* __restrict__ table_start, const uint32_t* __restrict__ position, int heads,
                             int kv_heads, int d, int window, float scale, float cap) {
    DYNAMIC_SHARED(dynamic);
    float* q = reinterpret_cast<float*>(dynamic);
    const int warps = blockDim.x / WARP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float* parts = q + d;  // [warps, d]
    float* largests = parts + warps * d;
    float* sums = largests + warps;
    const int token = blockIdx.x, head = blockIdx.y, kv_head = head / (heads / kv_heads);
    const int last = position[token], oldest = window ? max(0, last + 1 - window) : 0;
    const uint32_t* pages = tables + table_start[token];
    float* acc = parts + warp * d;
    for (int i = threadIdx.x; i < d; i += blockDim.x)
        q[i] = to_float(qkv[((int64_t)token * (heads + 2 * kv_heads) + head) * d + i]);
    for (int i = lane; i < d; i += WARP) acc[i] = 0;
    __syncthreads();
    float largest = -INFINITY, sum = 0;
    const int half = d / 2, slot = lane / 2;
    for (int page = oldest / PAGE + warp; page * PAGE <= last; page += warps) {
        const int64_t block = ((int64_t)pages[page] * kv_heads + kv_head) * PAGE * d;
        const int key = page * PAGE + slot;
        const bool seen = key >= oldest && key <= last;
        float x = 0;
        if (seen) {
            const T* k = keys + block + slot * d + lane % 2 * half;
            const float* mine = q + lane % 2 * half;
            for (int i = 0; i < half; i++) x += mine[i] * to_float(k[i]);
        }
        x += __shfl_xor_sync(FULL_WARP, x, 1);
        x *= scale;
        if (cap > 0) x = cap * tanhf(x / cap);
        if (!seen) x = -INFINITY;
        // A page that is visited holds a visible key.
        const float most = fmaxf(largest, warp_max(x)), shrink = expf(largest - most);
        const float p = expf(x - most);
        largest = most;
        // Both lanes of a key hold its p.
        sum = sum * shrink + warp_sum(p) * 0.5f;
        for (int i = lane; i < d; i += WARP) acc[i] *= shrink;
        for (int s = 0; s < PAGE; s++) {
            const float weight = __shfl_sync(FULL_WARP, p, s * 2);
            if (page * PAGE + s < oldest || page * PAGE + s > last) continue;
            for (int i = lane; i < d; i += WARP) acc[i] += weight * to_float(values[block + s * d + i]);
        }
    }
    if (lane == 0) {
        largests[warp] = largest;
        sums[warp] = sum;
    }
    __syncthreads();
    float most = -INFINITY, total = 0;
    for (int w = 0; w < warps; w++) most = fmaxf(most, largests[w]);
    for (int w = 0; w < warps; w++) total += largests[w] == -INFINITY ? 0.0f : sums[w] * expf(largests[w] - most);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float x = 0;
        for (int w = 0; w < warps; w++)
            if (largests[w] != -INFINITY) x += parts[w * d + i] * expf(largests[w] - most);
        out[((int64_t)token * heads + head) * d + i] = of_float<T>(x / total);
    }
}

FOR_BOTH(attend_pages, attend_pages,
         (bf16 * out, const bf16* qkv, const bf16* keys, const bf16* values, const uint32_t* tables,
          const uint32_t* table_start, const uint32_t* position, int heads, int kv_heads, int d, int window, float scale,
          float cap),
         (float* out, const float* qkv, const float* keys, const float* values, const uint32_t* tables,
          const uint32_t* table_start, const uint32_t* position, int heads, int kv_heads, int d, int window, float scale,
          float cap),
         (out, qkv, keys, values, tables, table_start, position, heads, kv_heads, d, window, scale, cap))
