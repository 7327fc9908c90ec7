// Causal attention over packed segments, forward and backward, without a matrix of scores in device memory (Dao,
// FlashAttention-2, arXiv 2307.08691). See ops/attention/ for what a segment and its prefix are.
//
// D is the head size rounded up to 64, 128 or 256; a block has WARPS warps of sixteen resident rows each and streams S
// rows at a time past them. The backward has one kernel for keys and values (a block owns keys, queries stream by) and
// one for queries: nothing is summed by atomics, so that a gradient has the same bits in every run.
#include "attention.cuh"

template <class T, int D, int WARPS, int S>
__device__ void attention_forward(T* __restrict__ out, float* __restrict__ log_sums, const T* __restrict__ qkv,
                                  const Segment* __restrict__ segments, const int* __restrict__ tiles,
                                  const AttentionShape a) {
    constexpr int ROWS = WARPS * 16, STRIDE = Tile<T, D>::STRIDE;
    DYNAMIC_SHARED(dynamic);
    T* q = reinterpret_cast<T*>(dynamic);
    T* k = q + ROWS * STRIDE;
    T* v = k + S * STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const Segment segment = segments[tiles[blockIdx.x * 4]];
    const int offset = tiles[blockIdx.x * 4 + 1];
    const int head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
    const int64_t width = (int64_t)(a.heads + 2 * a.kv_heads) * a.d;
    const T* keys = qkv + (int64_t)(a.heads + kv_head) * a.d;
    const T* values = keys + (int64_t)a.kv_heads * a.d;
    const int live = min(ROWS, segment.rows - offset);
    const int first = segment.position + offset, last = first + live - 1;
    const int oldest = a.window ? max(0, first + 1 - a.window) : 0;

    float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    clear(acc);
    int j = oldest / S * S;
    load_tile<T, D, ROWS>(q, qkv + (int64_t)head * a.d, width, a.d, live,
                          [&](int r) { return (int64_t)segment.row + offset + r; });
    load_tile<T, D, S>(k, keys, width, a.d, last + 1 - j, [&](int r) { return key_row(segment, j + r); });
    cp_async_commit();
    for (; j <= last; j += S) {
        cp_async_wait<0>();
        __syncthreads();
        load_tile<T, D, S>(v, values, width, a.d, last + 1 - j, [&](int r) { return key_row(segment, j + r); });
        cp_async_commit();
        float p[S / 8][4];
        clear(p);
        product_transposed<D, S>(p, q + warp * 16 * STRIDE, k);
        cp_async_wait<0>();
        __syncthreads();
        // All warps have read k: the next keys come while the values are used.
        if (j + S <= last) {
            const int next = j + S;
            load_tile<T, D, S>(k, keys, width, a.d, last + 1 - next, [&](int r) { return key_row(segment, next + r); });
        }
        cp_async_commit();
        softmax_step<T, S>(p, acc, largest, sum, [&](float product, int half, int column) {
            float slope;
            const float x = score<T>(a, product, slope);
            return is_visible(a, first + warp * 16 + lane / 4 + half * 8, j + column) ? x : -INFINITY;
        });
        product<D, S>(acc, p, v);
    }
    cp_async_wait<0>();
    join_sums(sum);
    divide(acc, sum);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = warp * 16 + lane / 4 + half * 8;
        if (lane % 4 == 0 && r < live)
            log_sums[((int64_t)segment.row + offset + r) * a.heads + head] = largest[half] + logf(sum[half]);
    }
    store_rows<T, D>(out + (int64_t)head * a.d, acc, (int64_t)a.heads * a.d, a.d, warp * 16, live,
                     [&](int r) { return (int64_t)segment.row + offset + r; });
}

// delta [t, heads] = Σ out · d_out of each head. One warp to a head.
template <class T>
__device__ void attention_delta(float* __restrict__ delta, const T* __restrict__ out, const T* __restrict__ d_out,
                                int64_t items, int d) {
    const int64_t item = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (item >= items) return;
    float total = 0;
    for (int i = threadIdx.x % WARP; i < d; i += WARP) total += to_float(out[item * d + i]) * to_float(d_out[item * d + i]);
    total = warp_sum(total);
    if (threadIdx.x % WARP == 0) delta[item] = total;
}

FOR_BOTH(attention_delta, attention_delta, (float* delta, const bf16* out, const bf16* d_out, int64_t items, int d),
         (float* delta, const float* out, const float* d_out, int64_t items, int d), (delta, out, d_out, items, d))

// Gradients of the keys and values of one tile: those of its own segment's later queries and, for a prefix, of all that
// follow it. tiles: {segment, offset, first follower, end of followers}.
template <class T, int D, int WARPS, int S, bool KEYS, bool VALUES>
__device__ void attention_backward_keys(T* __restrict__ d_qkv, const T* __restrict__ qkv, const T* __restrict__ d_out,
                                        const float* __restrict__ log_sums, const float* __restrict__ delta,
                                        const Segment* __restrict__ segments, const int* __restrict__ tiles,
                                        const AttentionShape a) {
    constexpr int ROWS = WARPS * 16, STRIDE = Tile<T, D>::STRIDE;
    DYNAMIC_SHARED(dynamic);
    T* k = reinterpret_cast<T*>(dynamic);
    T* q = k + ROWS * STRIDE;
    T* d_o = q + S * STRIDE;
    float* sums = reinterpret_cast<float*>(d_o + S * STRIDE);
    float* deltas = sums + S;
    T* v = reinterpret_cast<T*>(deltas + S);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int owner = tiles[blockIdx.x * 4], offset = tiles[blockIdx.x * 4 + 1];
    const int follower = tiles[blockIdx.x * 4 + 2], followers_end = tiles[blockIdx.x * 4 + 3];
    const Segment segment = segments[owner];
    const int kv_head = blockIdx.y, repeat = a.heads / a.kv_heads;
    const int64_t width = (int64_t)(a.heads + 2 * a.kv_heads) * a.d, out_width = (int64_t)a.heads * a.d;
    const int64_t key_column = (int64_t)(a.heads + kv_head) * a.d, value_column = key_column + (int64_t)a.kv_heads * a.d;
    const int live = min(ROWS, segment.rows - offset);
    const int first = segment.position + offset, last = first + live - 1;
    const auto own_row = [&](int r) { return (int64_t)segment.row + offset + r; };

    float dk[KEYS ? D / 8 : 1][4], dv[VALUES ? D / 8 : 1][4];
    clear(dk);
    clear(dv);
    load_tile<T, D, ROWS>(k, qkv + key_column, width, a.d, live, own_row);
    if (KEYS) load_tile<T, D, ROWS>(v, qkv + value_column, width, a.d, live, own_row);
    for (int head = kv_head * repeat; head < (kv_head + 1) * repeat; head++) {
        for (int from = follower - 1; from < followers_end; from++) {
            // The owner itself comes first.
            const bool own = from < follower;
            const Segment asking = own ? segment : segments[from];
            for (int i = own ? offset / S * S : 0; i < asking.rows; i += S) {
                if (a.window && asking.position + i - a.window >= last) break;
                const int queries = min(S, asking.rows - i);
                const auto query_row = [&](int r) { return (int64_t)asking.row + i + r; };
                __syncthreads();
                load_tile<T, D, S>(q, qkv + (int64_t)head * a.d, width, a.d, queries, query_row);
                load_tile<T, D, S>(d_o, d_out + (int64_t)head * a.d, out_width, a.d, queries, query_row);
                cp_async_commit();
                for (int r = threadIdx.x; r < S; r += blockDim.x) {
                    sums[r] = r < queries ? log_sums[query_row(r) * a.heads + head] : 0;
                    deltas[r] = r < queries ? delta[query_row(r) * a.heads + head] : 0;
                }
                cp_async_wait<0>();
                __syncthreads();
                float p[S / 8][4], slopes[KEYS ? S / 8 : 1][4];
                clear(p);
                product_transposed<D, S>(p, k + warp * 16 * STRIDE, q);
#pragma unroll
                for (int n = 0; n < S / 8; n++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int column = n * 8 + lane % 4 * 2 + e % 2, r = warp * 16 + lane / 4 + e / 2 * 8;
                        float slope;
                        const float x = score<T>(a, p[n][e], slope);
                        const bool seen =
                            r < live && column < queries && is_visible(a, asking.position + i + column, first + r);
                        p[n][e] = seen ? exp_of<T>(x - sums[column]) : 0;
                        if (KEYS) slopes[n][e] = slope;
                    }
                }
                if (VALUES) product<D, S>(reinterpret_cast<float(&)[D / 8][4]>(dv), p, d_o);
                if (KEYS) {
                    float dp[S / 8][4];
                    clear(dp);
                    product_transposed<D, S>(dp, v + warp * 16 * STRIDE, d_o);
#pragma unroll
                    for (int n = 0; n < S / 8; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            dp[n][e] = p[n][e] * (dp[n][e] - deltas[n * 8 + lane % 4 * 2 + e % 2]) * slopes[n][e];
                    product<D, S>(reinterpret_cast<float(&)[D / 8][4]>(dk), dp, q);
                }
            }
        }
    }
    // The resident tiles may be under way still where no query came by.
    cp_async_wait<0>();
    if (KEYS)
        store_rows<T, D>(d_qkv + key_column, reinterpret_cast<float(&)[D / 8][4]>(dk), width, a.d, warp * 16, live, own_row);
    if (VALUES)
        store_rows<T, D>(d_qkv + value_column, reinterpret_cast<float(&)[D / 8][4]>(dv), width, a.d, warp * 16, live,
                         own_row);
}

// Gradients of the queries of one tile.
template <class T, int D, int WARPS, int S>
__device__ void attention_backward_queries(T* __restrict__ d_qkv, const T* __restrict__ qkv, const T* __restrict__ d_out,
                                           const float* __restrict__ log_sums, const float* __restrict__ delta,
                                           const Segment* __restrict__ segments, const int* __restrict__ tiles,
                                           const AttentionShape a) {
    constexpr int ROWS = WARPS * 16, STRIDE = Tile<T, D>::STRIDE;
    DYNAMIC_SHARED(dynamic);
    T* q = reinterpret_cast<T*>(dynamic);
    T* d_o = q + ROWS * STRIDE;
    T* k = d_o + ROWS * STRIDE;
    T* v = k + S * STRIDE;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const Segment segment = segments[tiles[blockIdx.x * 4]];
    const int offset = tiles[blockIdx.x * 4 + 1];
    const int head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
    const int64_t width = (int64_t)(a.heads + 2 * a.kv_heads) * a.d;
    const T* keys = qkv + (int64_t)(a.heads + kv_head) * a.d;
    const T* values = keys + (int64_t)a.kv_heads * a.d;
    const int live = min(ROWS, segment.rows - offset);
    const int first = segment.position + offset, last = first + live - 1;
    const int oldest = a.window ? max(0, first + 1 - a.window) : 0;
    const auto own_row = [&](int r) { return (int64_t)segment.row + offset + r; };

    load_tile<T, D, ROWS>(q, qkv + (int64_t)head * a.d, width, a.d, live, own_row);
    load_tile<T, D, ROWS>(d_o, d_out + (int64_t)head * a.d, (int64_t)a.heads * a.d, a.d, live, own_row);
    float sums[2], deltas[2], dq[D / 8][4];
    clear(dq);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = warp * 16 + lane / 4 + half * 8;
        sums[half] = r < live ? log_sums[own_row(r) * a.heads + head] : 0;
        deltas[half] = r < live ? delta[own_row(r) * a.heads + head] : 0;
    }
    for (int j = oldest / S * S; j <= last; j += S) {
        __syncthreads();
        load_tile<T, D, S>(k, keys, width, a.d, last + 1 - j, [&](int r) { return key_row(segment, j + r); });
        load_tile<T, D, S>(v, values, width, a.d, last + 1 - j, [&](int r) { return key_row(segment, j + r); });
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float p[S / 8][4], dp[S / 8][4];
        clear(p);
        clear(dp);
        product_transposed<D, S>(p, q + warp * 16 * STRIDE, k);
        product_transposed<D, S>(dp, d_o + warp * 16 * STRIDE, v);
#pragma unroll
        for (int n = 0; n < S / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = warp * 16 + lane / 4 + e / 2 * 8;
                float slope;
                const float x = score<T>(a, p[n][e], slope);
                const bool seen = r < live && is_visible(a, first + r, j + n * 8 + lane % 4 * 2 + e % 2);
                dp[n][e] = seen ? exp_of<T>(x - sums[e / 2]) * (dp[n][e] - deltas[e / 2]) * slope : 0;
            }
        }
        product<D, S>(dq, dp, k);
    }
    store_rows<T, D>(d_qkv + (int64_t)head * a.d, dq, width, a.d, warp * 16, live, own_row);
}

#define SHAPE_PARAMETERS int heads, int kv_heads, int d, int window, float scale, float cap
#define SHAPE {heads, kv_heads, d, window, scale, cap}

#define FORWARD(name, T, D, WARPS, S)                                                                                   \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        attention_forward_##name(T* out, float* log_sums, const T* qkv, const Segment* segments, const int* tiles,      \
                                 SHAPE_PARAMETERS) {                                                                    \
        attention_forward<T, D, WARPS, S>(out, log_sums, qkv, segments, tiles, AttentionShape SHAPE);                   \
    }

#define BACKWARD(kernel, name, T, D, WARPS, S, ...)                                                                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        name(T* d_qkv, const T* qkv, const T* d_out, const float* log_sums, const float* delta,                         \
             const Segment* segments, const int* tiles, SHAPE_PARAMETERS) {                                             \
        kernel<T, D, WARPS, S __VA_ARGS__>(d_qkv, qkv, d_out, log_sums, delta, segments, tiles, AttentionShape SHAPE);  \
    }

// WARPS and S as `TileShape::of` in ops/attention/gpu.rs has them.
FORWARD(bf16_64, bf16, 64, 4, 64)
FORWARD(bf16_128, bf16, 128, 4, 64)
FORWARD(bf16_256, bf16, 256, 4, 32)
FORWARD(f32_64, float, 64, 2, 32)
FORWARD(f32_128, float, 128, 2, 32)
FORWARD(f32_256, float, 256, 2, 32)

#define COMMA ,
BACKWARD(attention_backward_keys, attention_backward_keys_values_bf16_64, bf16, 64, 4, 64, COMMA true COMMA true)
BACKWARD(attention_backward_keys, attention_backward_keys_values_bf16_128, bf16, 128, 4, 32, COMMA true COMMA true)
BACKWARD(attention_backward_keys, attention_backward_keys_bf16_256, bf16, 256, 2, 32, COMMA true COMMA false)
BACKWARD(attention_backward_keys, attention_backward_values_bf16_256, bf16, 256, 2, 32, COMMA false COMMA true)
BACKWARD(attention_backward_keys, attention_backward_keys_values_f32_64, float, 64, 2, 32, COMMA true COMMA true)
BACKWARD(attention_backward_keys, attention_backward_keys_values_f32_128, float, 128, 2, 32, COMMA true COMMA true)
BACKWARD(attention_backward_keys, attention_backward_keys_f32_256, float, 256, 2, 32, COMMA true COMMA false)
BACKWARD(attention_backward_keys, attention_backward_values_f32_256, float, 256, 2, 32, COMMA false COMMA true)
BACKWARD(attention_backward_queries, attention_backward_queries_bf16_64, bf16, 64, 4, 64)
BACKWARD(attention_backward_queries, attention_backward_queries_bf16_128, bf16, 128, 4, 32)
BACKWARD(attention_backward_queries, attention_backward_queries_bf16_256, bf16, 256, 2, 32)
BACKWARD(attention_backward_queries, attention_backward_queries_f32_64, float, 64, 2, 32)
BACKWARD(attention_backward_queries, attention_backward_queries_f32_128, float, 128, 2, 32)
BACKWARD(attention_backward_queries, attention_backward_queries_f32_256, float, 256, 2, 32)
