// Attention of tokens with common keys: pages that the candidates of a prompt share, or a prompt's own. See paged_attention.cu.
#include "paged.cuh"

// One block to some tokens with common keys and a key head. Every query head of every token is a row; the keys stream by once for all
// of them. The next keys are on their way while values are weighed, the next values while keys are multiplied.
template <class T, class Pages, int D, int WARPS, int S>
__device__ void attend_common_pages(T* __restrict__ out, const T* __restrict__ qkv,
                                    const typename Pages::Number* __restrict__ keys,
                                    const typename Pages::Number* __restrict__ values, const Pages pages_of,
                                    const PageItem* __restrict__ items, const PagedStep step) {
    typedef typename Pages::Number Number;
    constexpr int ROWS = WARPS * 16, STRIDE = Tile<T, D>::STRIDE;
    DYNAMIC_SHARED(dynamic);
    const PageItem item = items[blockIdx.x];
    if (item.count == 0) return;
    T* q = reinterpret_cast<T*>(dynamic);
    Number* k = reinterpret_cast<Number*>(q + ROWS * STRIDE);
    Number* v = k + Pages::template TILE<D, S>;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int kv_head = blockIdx.y, heads = step.heads, d = step.d, repeat = heads / step.kv_heads;
    const uint32_t* table = step.tables + item.table;
    int begin = item.from;
    if (step.window) {
        int oldest = item.to;
        for (int i = 0; i < item.count; i++) oldest = min(oldest, oldest_of(step, step.position[item.token + i]));
        begin += max(0, oldest - item.from) / S * S;
    }
    for (int first = 0; first < repeat; first += ROWS) {
        const int together = min(ROWS, repeat - first), live = item.count * together;
        // In rows of d: those of `qkv`, of `out` and of the parts.
        const auto head_of = [&](int r) { return kv_head * repeat + first + r % together; };
        const auto query_row = [&](int r) {
            return (int64_t)(item.token + r / together) * (heads + 2 * step.kv_heads) + head_of(r);
        };
        PagedTile<Number, D, S, WARPS * WARP> place;
        place.find(table, begin, item.to, threadIdx.x);
        const auto load_keys = [&](int j) {
            pages_of.load_keys(place, k, keys, {step, table, kv_head, j, item.to - j}, threadIdx.x);
        };
        const auto load_values = [&](int j) {
            pages_of.load_values(place, v, values, {step, table, kv_head, j, item.to - j}, threadIdx.x);
        };
        float acc[D / 8][4], largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
        clear(acc);
        __syncthreads();
        if (Pages::COPIES_QUERIES) Pages::template load_queries<D, ROWS>(q, qkv, d, live, query_row);
        if (begin < item.to) load_keys(begin);
        cp_async_commit();
        if (begin < item.to) load_values(begin);
        cp_async_commit();
        if (!Pages::COPIES_QUERIES) Pages::template load_queries<D, ROWS>(q, qkv, d, live, query_row);
        int position[2], oldest[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = warp * 16 + lane / 4 + half * 8;
            position[half] = r < live ? (int)step.position[item.token + r / together] : -1;
            oldest[half] = oldest_of(step, position[half]);
        }
        for (int j = begin; j < item.to; j += S) {
            place.find(table, j + S, item.to, threadIdx.x);
            cp_async_wait<1>();
            __syncthreads();
            float p[S / 8][4];
            clear(p);
            product_transposed<D, S>(p, q + warp * 16 * STRIDE, k);
            Pages::template scale<D, S>(p, k, item.to - j);
            // All warps have read the keys.
            __syncthreads();
            if (j + S < item.to) load_keys(j + S);
            cp_async_commit();
            softmax_step<T, S>(p, acc, largest, sum, [&](float product, int half, int column) {
                const int key = j + column;
                return key >= oldest[half] && key <= position[half] && key < item.to ? paged_score<T>(step, product)
                                                                                     : -INFINITY;
            });
            cp_async_wait<1>();
            __syncthreads();
            Pages::template scale<D, S>(p, v, item.to - j);
            Pages::template weighted<D, S>(acc, p, v);
            // And the values.
            __syncthreads();
            if (j + S < item.to) load_values(j + S);
            cp_async_commit();
        }
        cp_async_wait<0>();
        join_sums(sum);
        if (item.part < 0) {
            divide(acc, sum);
            Pages::template store<T, D>(out, acc, d, warp * 16, live,
                                        [&](int r) { return (int64_t)(item.token + r / together) * heads + head_of(r); });
        } else {
            const auto part_row = [&](int r) {
                return (int64_t)(step.part_start[item.token + r / together] + item.part) * heads + head_of(r);
            };
            Pages::template store<float, D>(step.parts, acc, d, warp * 16, live, part_row);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int r = warp * 16 + lane / 4 + half * 8;
                if (lane % 4 == 0 && r < live) {
                    step.stats[part_row(r) * 2] = largest[half];
                    step.stats[part_row(r) * 2 + 1] = sum[half];
                }
            }
        }
    }
}

#define ATTEND_COMMON_PAGES(name, T, D, WARPS, S)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND(attend_common_pages_##name, T, (attend_common_pages<T, PlainPages<T>, D, WARPS, S>))                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND_FP8(attend_common_fp8_pages_##name, T, (attend_common_pages<T, Fp8Pages<T>, D, WARPS, S>))
// Half the rows.
#define ATTEND_NARROW_PAGES(name, T, D, WARPS, S)                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND(attend_narrow_pages_##name, T, (attend_common_pages<T, PlainPages<T>, D, WARPS, S>))                     \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                            \
        ATTEND_FP8(attend_narrow_fp8_pages_##name, T, (attend_common_pages<T, Fp8Pages<T>, D, WARPS, S>))

// WARPS and S as `TileShape::of` in ops/attention/gpu.rs has them for the forward; narrow ones as `CommonForm::of` in
// ops/paged_attention/gpu.rs.
ATTEND_COMMON_PAGES(bf16_64, bf16, 64, 4, 64)
ATTEND_COMMON_PAGES(bf16_128, bf16, 128, 4, 64)
ATTEND_COMMON_PAGES(bf16_256, bf16, 256, 4, 32)
ATTEND_COMMON_PAGES(f32_64, float, 64, 2, 32)
ATTEND_COMMON_PAGES(f32_128, float, 128, 2, 32)
ATTEND_COMMON_PAGES(f32_256, float, 256, 2, 32)

ATTEND_NARROW_PAGES(bf16_64, bf16, 64, 2, 64)
ATTEND_NARROW_PAGES(bf16_128, bf16, 128, 2, 64)
ATTEND_NARROW_PAGES(bf16_256, bf16, 256, 2, 32)
