// Attention of new tokens over the paged cache, keys and values [pages, kv_heads, 16, d]; see kernels/paged_attention.rs.
#include "tile.cuh"

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

// One block to a token and a key head: its query heads (sixteen at most at a time) are the rows of one tile, so that keys and
// values are read once for all of them. Warps take the tiles of S keys in turn, each with a running maximum of its own, and are
// joined in their order at the end: a token's bits depend on nothing but its own position. Tokens of rows that share pages stand
// next to each other in the grid, and find them in the second cache.
template <class T, int D, int S, int WARPS>
__device__ void attend_pages(T* __restrict__ out, const T* __restrict__ qkv, const T* __restrict__ keys,
                             const T* __restrict__ values, const uint32_t* __restrict__ tables,
                             const uint32_t* __restrict__ table_start, const uint32_t* __restrict__ position, int heads,
                             int kv_heads, int d, int window, float scale, float cap) {
    constexpr int ROWS = 16, STRIDE = Tile<T, D>::STRIDE;
    static_assert(ROWS * D * 4 <= 2 * S * STRIDE * (int)sizeof(T), "a warp's part takes the place of its tiles");
    DYNAMIC_SHARED(dynamic);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    T* q = reinterpret_cast<T*>(dynamic);
    T* k = q + ROWS * STRIDE + warp * 2 * S * STRIDE;
    T* v = k + S * STRIDE;
    float* largests = reinterpret_cast<float*>(q + (ROWS + WARPS * 2 * S) * STRIDE);  // [WARPS, ROWS]
    float* sums = largests + WARPS * ROWS;
    const int token = blockIdx.x, kv_head = blockIdx.y, repeat = heads / kv_heads;
    const int last = position[token], oldest = window ? max(0, last + 1 - window) : 0;
    const uint32_t* pages = tables + table_start[token];
    for (int first = 0; first < repeat; first += ROWS) {
        const int live = min(ROWS, repeat - first), head = kv_head * repeat + first;
        __syncthreads();
        load_tile<T, D, ROWS>(q, qkv + ((int64_t)token * (heads + 2 * kv_heads) + head) * d, d, d, live,
                              [](int r) { return (int64_t)r; });
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        clear(acc);
        for (int tile = oldest / S + warp; tile * S <= last; tile += WARPS) {
            const int j = tile * S, count = min(S, last + 1 - j);
            const auto key_row = [&](int r) {
                return ((int64_t)pages[(j + r) / PAGE] * kv_heads + kv_head) * PAGE + (j + r) % PAGE;
            };
            // The warp has read its last tiles.
            __syncwarp();
            load_tile<T, D, S>(k, keys, d, d, count, key_row, lane, WARP);
            cp_async_commit();
            load_tile<T, D, S>(v, values, d, d, count, key_row, lane, WARP);
            cp_async_commit();
            cp_async_wait<1>();
            __syncwarp();
            float p[S / 8][4];
            clear(p);
            product_transposed<D, S>(p, q, k);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float most = largest[half];
#pragma unroll
                for (int n = 0; n < S / 8; n++) {
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const int key = j + n * 8 + lane % 4 * 2 + e;
                        float x = p[n][half * 2 + e] * scale;
                        if (cap > 0) x = cap * tanh_of<T>(x / cap);
                        p[n][half * 2 + e] = key >= oldest && key <= last ? x : -INFINITY;
                        most = fmaxf(most, p[n][half * 2 + e]);
                    }
                }
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
                const float shift = most == -INFINITY ? 0.0f : most;
                const float shrink = exp_of<T>(largest[half] - shift);
                largest[half] = most;
                sum[half] *= shrink;
#pragma unroll
                for (int n = 0; n < S / 8; n++) {
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        p[n][half * 2 + e] = exp_of<T>(p[n][half * 2 + e] - shift);
                        sum[half] += p[n][half * 2 + e];
                    }
                }
#pragma unroll
                for (int c = 0; c < D / 8; c++) {
                    acc[c][half * 2] *= shrink;
                    acc[c][half * 2 + 1] *= shrink;
                }
            }
            cp_async_wait<0>();
            __syncwarp();
            product<D, S>(acc, p, v);
        }
        __syncwarp();
        float* part = reinterpret_cast<float*>(k);  // [ROWS, D]
#pragma unroll
        for (int half = 0; half < 2; half++) {
            sum[half] += __shfl_xor_sync(FULL_WARP, sum[half], 1);
            sum[half] += __shfl_xor_sync(FULL_WARP, sum[half], 2);
            const int r = lane / 4 + half * 8;
            if (lane % 4 == 0) {
                largests[warp * ROWS + r] = largest[half];
                sums[warp * ROWS + r] = sum[half];
            }
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
                part[r * D + c * 8 + lane % 4 * 2] = acc[c][half * 2];
                part[r * D + c * 8 + lane % 4 * 2 + 1] = acc[c][half * 2 + 1];
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < live * d; i += blockDim.x) {
            const int r = i / d, c = i % d;
            float most = -INFINITY, total = 0, x = 0;
            for (int w = 0; w < WARPS; w++) most = fmaxf(most, largests[w * ROWS + r]);
            for (int w = 0; w < WARPS; w++) {
                const float weight = exp_of<T>(largests[w * ROWS + r] - most);
                const T* tiles = q + ROWS * STRIDE + w * 2 * S * STRIDE;
                total += sums[w * ROWS + r] * weight;
                x += reinterpret_cast<const float*>(tiles)[r * D + c] * weight;
            }
            out[((int64_t)token * heads + head + r) * d + c] = of_float<T>(x / total);
        }
    }
}

#define ATTEND_PAGES(name, T, D, S, WARPS)                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        attend_pages_##name(T* out, const T* qkv, const T* keys, const T* values, const uint32_t* tables,               \
                            const uint32_t* table_start, const uint32_t* position, int heads, int kv_heads, int d,      \
                            int window, float scale, float cap) {                                                       \
        attend_pages<T, D, S, WARPS>(out, qkv, keys, values, tables, table_start, position, heads, kv_heads, d,         \
                                     window, scale, cap);                                                               \
    }
// S and WARPS as `PagedForm::of` in kernels/paged_attention.rs has them.
ATTEND_PAGES(bf16_64, bf16, 64, 32, 4)
ATTEND_PAGES(bf16_128, bf16, 128, 32, 4)
ATTEND_PAGES(bf16_256, bf16, 256, 16, 4)
ATTEND_PAGES(f32_64, float, 64, 16, 2)
ATTEND_PAGES(f32_128, float, 128, 16, 2)
ATTEND_PAGES(f32_256, float, 256, 16, 2)
