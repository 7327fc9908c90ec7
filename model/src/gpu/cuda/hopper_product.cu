// C [m, n] = A [m, k] · Bᵀ, B [n, k], as fixed_product.cu has it, by Hopper's products of a warp group: a row of C has the same bits
// whatever m is and wherever the row stands. One block to 128 × N of C and one of `cut` parts of k, both by n and k alone
// (ops/fixed_product/hopper.rs): each part's sum runs from its first number to its last, sixteen at a time, in one thread's
// accumulator, and the parts' sums are added in their order. A part but the last leaves its sums in `partial`, in the order of
// registers, and publishes them; the last waits for them. Blocks take their work by a ticket, a tile's last part last, so that
// whoever is waited for has begun.
//
// Three warp groups: one thread of the first keeps copies of the next stages under way, the other two multiply, 64 rows each. Of a
// group without rows nothing is computed, so that few rows take the time of their weights' bytes. What lies past m, n or k is
// zeros by the copies.
#include "hopper.cuh"

#define PRODUCT_ROWS 128
#define PRODUCT_DEPTH 64
// Tiles of rows that blocks which run together share columns of: the weights' tile is read once by them, and A stays in L2.
#define PRODUCT_GROUP 16

#if HAS_HOPPER
template <int N>
__device__ __forceinline__ void store_product(bf16* c, const float (&sums)[N / 8][4], int row, int m, int column, int n,
                                              int64_t c_stride) {
    const int lane = threadIdx.x % WARP;
    store_wide(sums, n - column, [&](int half) {
        const int r = row + lane / 4 + half * 8;
        return r < m ? c + r * c_stride + column : nullptr;
    });
}

template <int N>
__device__ __forceinline__ void store_product(float* c, const float (&sums)[N / 8][4], int row, int m, int column, int n,
                                              int64_t c_stride) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + lane / 4 + half * 8;
        if (r >= m) continue;
        float* to = c + r * c_stride + column + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < N / 8; i++) {
            // n is a multiple of 8.
            if (column + i * 8 >= n) continue;
            to[i * 8] = sums[i][half * 2];
            to[i * 8 + 1] = sums[i][half * 2 + 1];
        }
    }
}

// This group's sums to or from device memory, sixteen bytes a thread.
template <int N>
__device__ __forceinline__ void write_partial(float* to, const float (&sums)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        store_vec(to + (i * WARP_GROUP + threadIdx.x % WARP_GROUP) * 4,
                  Vec<float>{{sums[i][0], sums[i][1], sums[i][2], sums[i][3]}});
}
// The sums of `count` parts, `apart` numbers from each other, and then these.
template <int N>
__device__ __forceinline__ void add_partials(float (&sums)[N][4], const float* from, int count, int64_t apart) {
    // As many at a time as there are registers for.
    constexpr int MOST = 8;
#pragma unroll
    for (int first = 0; first < N; first += MOST) {
        float before[MOST][4] = {};
        for (int part = 0; part < count; part++) {
#pragma unroll
            for (int i = 0; i < MOST; i++) {
                const Vec<float> four =
                    load_vec(from + part * apart + ((first + i) * WARP_GROUP + threadIdx.x % WARP_GROUP) * 4);
#pragma unroll
                for (int e = 0; e < 4; e++) before[i][e] += four.at[e];
            }
        }
#pragma unroll
        for (int i = 0; i < MOST; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[first + i][e] = before[i][e] + sums[first + i][e];
    }
}

template <int N, int STAGES, class Out>
__device__ __forceinline__ void hopper_product(Out* __restrict__ c, float* partial, int* counts, int cut, const TensorMap& a_map,
                                               const TensorMap& b_map, int m, int n, int k, int64_t c_stride) {
    constexpr int A_BYTES = tile_bytes(PRODUCT_ROWS, PRODUCT_DEPTH), STAGE = A_BYTES + tile_bytes(N, PRODUCT_DEPTH);
    DYNAMIC_SHARED(dynamic);
    unsigned char* stages = first_tile(dynamic);
    Barrier* full = reinterpret_cast<Barrier*>(stages + STAGES * STAGE);
    Barrier* empty = full + STAGES;
    int* ticket = reinterpret_cast<int*>(empty + STAGES);

    if (threadIdx.x == 0) *ticket = cut > 1 ? atomicAdd(counts, 1) : blockIdx.x;
    __syncthreads();
    const int tile = *ticket / cut, slice = *ticket % cut;
    const int row_tiles = (m + PRODUCT_ROWS - 1) / PRODUCT_ROWS, column_tiles = (n + N - 1) / N;
    const int first_of_group = tile / (PRODUCT_GROUP * column_tiles) * PRODUCT_GROUP;
    const int in_group = tile % (PRODUCT_GROUP * column_tiles);
    const int rows_of_group = min(PRODUCT_GROUP, row_tiles - first_of_group);
    const int row = (first_of_group + in_group % rows_of_group) * PRODUCT_ROWS, column = in_group / rows_of_group * N;
    // This part's stages of k.
    const int all_steps = (k + PRODUCT_DEPTH - 1) / PRODUCT_DEPTH, most = (all_steps + cut - 1) / cut;
    const int first_step = slice * most, steps = min(most, all_steps - first_step);
    // Groups that have rows of C.
    const int working = m - row > 64 ? 2 : 1;

    if (threadIdx.x == 0) {
        prefetch_map(&a_map);
        prefetch_map(&b_map);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, working * (WARP_GROUP / WARP));
        }
        barriers_ready();
    }
    __syncthreads();
    const int group = threadIdx.x / WARP_GROUP;
    if (group == 0) {
        give_registers<24>();
        if (threadIdx.x == 0) {
            for (int step = 0; step < steps; step++) {
                const int stage = stage_of<STAGES>(step);
                unsigned char* to = stages + stage * STAGE;
                barrier_wait(empty + stage, parity_of<STAGES>(step) ^ 1);
                barrier_expect(full + stage, STAGE);
                copy_tile(to, &a_map, full + stage, row, (first_step + step) * PRODUCT_DEPTH);
                copy_tile(to + A_BYTES, &b_map, full + stage, column, (first_step + step) * PRODUCT_DEPTH);
            }
        }
        return;
    }
    take_registers<240>();
    const int part = group - 1;
    if (part >= working) return;
    float sums[N / 8][4];
    for (int step = 0; step < steps; step++) {
        const int stage = stage_of<STAGES>(step);
        const unsigned char* a = stages + stage * STAGE;
        const unsigned char* b = a + A_BYTES;
        barrier_wait(full + stage, parity_of<STAGES>(step));
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < PRODUCT_DEPTH; i += 16)
            wgmma<N, 0, 0>(sums, along_rows(a, PRODUCT_ROWS, part * 64, i), along_rows(b, N, 0, i), step > 0 || i > 0);
        wgmma_commit();
        // The stage before is free: the products that read it are done.
        wgmma_wait<1>();
        if (step > 0 && threadIdx.x % WARP == 0) barrier_arrive(empty + stage_of<STAGES>(step - 1));
    }
    wgmma_wait<0>();
    wgmma_settled(sums);
    // Sums of a part of this tile and group, and whether they are there.
    const auto place = [&](int of) { return (int64_t)(tile * (cut - 1) + of) * 2 + part; };
    if (slice + 1 < cut) {
        write_partial(partial + place(slice) * 64 * N, sums);
        group_sync(1 + part, WARP_GROUP);
        if (threadIdx.x % WARP_GROUP == 0) publish_count(counts + 1 + place(slice), 1);
        return;
    }
    if (cut > 1) {
        if (threadIdx.x % WARP_GROUP == 0)
            for (int of = 0; of < cut - 1; of++) wait_for_count(counts + 1 + place(of), 1);
        group_sync(1 + part, WARP_GROUP);
        add_partials(sums, partial + place(0) * 64 * N, cut - 1, 2 * 64 * N);
    }
    const int warp = threadIdx.x % WARP_GROUP / WARP;
    store_product<N>(c, sums, row + part * 64 + warp * 16, m, column, n, c_stride);
}
#define HOPPER_PRODUCT_BODY(N, STAGES, Out) \
    hopper_product<N, STAGES, Out>(c, partial, counts, cut, a, b, m, n, k, c_stride)
#else
#define HOPPER_PRODUCT_BODY(N, STAGES, Out) __trap()
#endif

// N and STAGES as `HopperTile` in ops/fixed_product/hopper.rs has them.
#define HOPPER_PRODUCT(name, N, STAGES, Out)                                                                              \
    extern "C" __global__ void __launch_bounds__(3 * WARP_GROUP, 1)                                                       \
        hopper_product_##name(Out* c, float* partial, int* counts, int cut, TENSOR_MAP a, TENSOR_MAP b, int m, int n,     \
                              int k, int64_t c_stride) {                                                                  \
        HOPPER_PRODUCT_BODY(N, STAGES, Out);                                                                              \
    }
HOPPER_PRODUCT(64_bf16, 64, 8, bf16)
HOPPER_PRODUCT(64_bf16_to_f32, 64, 8, float)
HOPPER_PRODUCT(128_bf16, 128, 6, bf16)
HOPPER_PRODUCT(128_bf16_to_f32, 128, 6, float)
HOPPER_PRODUCT(192_bf16, 192, 5, bf16)
HOPPER_PRODUCT(192_bf16_to_f32, 192, 5, float)
HOPPER_PRODUCT(256_bf16, 256, 4, bf16)
HOPPER_PRODUCT(256_bf16_to_f32, 256, 4, float)
