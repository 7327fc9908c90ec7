// C [m, n] = A [m, k] · Wᵀ for W [n, k] in four bits (NF4, linear/nf4.rs): codes are decoded on their way to the matrix units, and
// nothing dense lies in memory. A number of W costs 9/16 bytes of traffic (its code, and its part of a block's scale), where a dense
// copy is written and read again. A number is decoded as a dense copy of type T has it, and sums run as in fixed_product.cu: the
// same bits as that product with such a copy. See ops/nf4_product.rs.
#include "warp_product.cuh"

// Numbers of k to a stage, those of one scale, and those that a thread decodes of a stage: sixteen bytes of one block.
#define NF4_DEPTH 128
#define NF4_BLOCK 64
#define NF4_CHUNK 32

// One block to ROWS × COLUMNS of C, its warps side by side in tiles of WM × WN; k is a multiple of NF4_BLOCK.
template <class T, int ROWS, int COLUMNS, int WM, int WN, int KEPT>
__device__ void nf4_product(T* __restrict__ c, const T* __restrict__ a, const uint8_t* __restrict__ codes,
                            const float* __restrict__ scales, const float* __restrict__ levels, int m, int n, int k,
                            int64_t c_stride) {
    constexpr int WORKERS = ROWS / WM * COLUMNS / WN * WARP, STRIDE = Tile<T, NF4_DEPTH>::STRIDE;
    constexpr int PARTS = NF4_DEPTH / NF4_CHUNK, CODED = COLUMNS * NF4_DEPTH / 2;
    static_assert(COLUMNS * PARTS == WORKERS, "each thread decodes one chunk of a stage");
    DYNAMIC_SHARED(dynamic);
    T* rows = reinterpret_cast<T*>(dynamic);        // [KEPT, ROWS, DEPTH]
    T* decoded = rows + KEPT * ROWS * STRIDE;     // [COLUMNS, DEPTH]
    uint8_t* coded = reinterpret_cast<uint8_t*>(decoded + COLUMNS * STRIDE);
    // What the codes mean, a copy for each lane: no two lanes meet in a bank.
    float* table = reinterpret_cast<float*>(coded + KEPT * CODED);
    const int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int warp_row = warp / (COLUMNS / WN) * WM, warp_column = warp % (COLUMNS / WN) * WN;
    for (int i = threadIdx.x; i < 16 * WARP; i += WORKERS) table[i] = levels[i / WARP];

    // This thread's chunk of every stage: a column of the tile, and where in its DEPTH numbers.
    const int own = threadIdx.x / PARTS, part = threadIdx.x % PARTS * NF4_CHUNK;
    const bool is_column = column + own < n;
    const int64_t start = is_column ? (int64_t)(column + own) * k : 0;
    const int steps = (k + NF4_DEPTH - 1) / NF4_DEPTH;
    const auto is_real = [&](int step) { return is_column && step * NF4_DEPTH + part < k; };
    const auto scale_of = [&](int step) {
        return is_real(step) ? scales[(start + step * NF4_DEPTH + part) / NF4_BLOCK] : 0.0f;
    };
    const auto load = [&](int step) {
        if (step < steps) {
            const int stage = step % KEPT, first = step * NF4_DEPTH, live = min(NF4_DEPTH, k - first);
            load_tile<T, NF4_DEPTH, ROWS>(rows + stage * ROWS * STRIDE, a + first, k, live, m - row,
                                          [&](int r) { return (int64_t)row + r; });
            const bool real = is_real(step);
            cp_async_16_zero(coded + stage * CODED + threadIdx.x * 16, real ? codes + (start + first + part) / 2 : codes,
                             real);
        }
        cp_async_commit();
    };
    float acc[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) clear(acc[i]);
    for (int step = 0; step < KEPT - 1; step++) load(step);
    float next = scale_of(0);
    for (int step = 0; step < steps; step++) {
        const float scale = next;
        next = step + 1 < steps ? scale_of(step + 1) : 0.0f;
        cp_async_wait<KEPT - 2>();
        // Every thread's copies of this stage are here, and nobody reads the decoded tile of the last one any more.
        __syncthreads();
        const Vec<uint8_t> bytes = load_vec(coded + step % KEPT * CODED + threadIdx.x * 16);
        T* to = decoded + own * STRIDE + part;
        constexpr int N = Vec<T>::N;
#pragma unroll
        for (int first = 0; first < NF4_CHUNK; first += N) {
            Vec<T> numbers;
#pragma unroll
            for (int i = 0; i < N; i += 2) {
                const int byte = bytes.at[(first + i) / 2];
                numbers.at[i] = of_float<T>(times(table[(byte >> 4) * WARP + lane], scale));
                numbers.at[i + 1] = of_float<T>(times(table[(byte & 15) * WARP + lane], scale));
            }
            store_vec(to + first, numbers);
        }
        load(step + KEPT - 1);
        __syncthreads();
        warp_product<NF4_DEPTH, WM, WN>(acc, rows + (step % KEPT * ROWS + warp_row) * STRIDE,
                                        decoded + warp_column * STRIDE);
    }
    cp_async_wait<0>();
    store_sums<WM, WN>(c, acc, row + warp_row, column + warp_column, m, n, c_stride);
}

#define NF4_PRODUCT(name, T, ROWS, COLUMNS, WM, WN, KEPT)                                                             \
    extern "C" __global__ void __launch_bounds__(ROWS / WM * COLUMNS / WN * 32)                                         \
        nf4_product_##name(T* c, const T* a, const uint8_t* codes, const float* scales, const float* levels, int m,     \
                           int n, int k, int64_t c_stride) {                                                            \
        nf4_product<T, ROWS, COLUMNS, WM, WN, KEPT>(c, a, codes, scales, levels, m, n, k, c_stride);                  \
    }
// Few rows: many narrow blocks, so that all of the GPU fetches codes. Tiles as `CompiledProduct` in ops/nf4_product.rs has them.
NF4_PRODUCT(few_bf16, bf16, 32, 32, 16, 16, 4)
NF4_PRODUCT(many_bf16, bf16, 64, 64, 32, 16, 3)
NF4_PRODUCT(few_f32, float, 32, 32, 16, 16, 3)
