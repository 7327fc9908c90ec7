// Hopper's asynchronous units (compute capability 9.0, `sm_90a`): copies of tiles by the tensor memory accelerator, barriers in
// shared memory, and products of a warp group. Real PTX here, a strict meaning in C++ in the tests' emulator
// (testing/src/emulator/hopper.h), which defines the same functions. Sections are those of the PTX manual, version 9.0; an
// instruction is found in its section by its name.
//
// What a kernel must keep to, and what the emulator holds it to:
//  - a tile's bytes may be read once a wait for the phase that counts them has returned;
//  - a place in shared memory may be overwritten once the products that read it have been waited for;
//  - sums may be read or changed once `wgmma_wait` has returned, and `wgmma_settled` names them after it;
//  - what threads write to shared memory is seen by products after `fence_async` of the writers and a barrier;
//  - products, their fence, commit and wait are executed by all 128 threads of a warp group.
#pragma once
#include "tile.cuh"

#define WARP_GROUP 128

// A tile in shared memory, as copies write it and products read it: rows of 128 bytes (64 elements of bf16), whose pieces of 16
// bytes are exchanged within each eight rows (swizzle mode 128B, 5.5.7): piece p of row r lies at p ^ (r % 8). It begins at a
// multiple of 1024 bytes. A tile of more columns is several of these, one after the other.
#define SWIZZLED_COLUMNS 64
#define SWIZZLED_ROW_BYTES 128
#define SWIZZLE_BYTES 1024

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

#ifdef SELFPLAY_EMULATOR
#include "hopper.h"
#else

// Whether this is compiled for what the instructions below exist on: elsewhere the kernels end in a trap, and are never chosen.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_HOPPER 1
#else
#define HAS_HOPPER 0
#endif

// A matrix in device memory and the box of it that one copy brings (5.5.3): `cuTensorMapEncodeTiled` writes it.
struct __align__(128) TensorMap {
    uint64_t opaque[16];
};

#define TENSOR_MAP const __grid_constant__ TensorMap

// A barrier in shared memory (9.7.13.15).
typedef uint64_t Barrier;

// The first place of dynamic shared memory that a swizzled tile may begin at.
__device__ __forceinline__ unsigned char* first_tile(unsigned char* dynamic) {
    return dynamic + (SWIZZLE_BYTES - shared_address(dynamic) % SWIZZLE_BYTES) % SWIZZLE_BYTES;
}

#if HAS_HOPPER

// mbarrier.init (9.7.13.15): a phase ends when `arrivals` threads have arrived and all announced bytes have come. By one
// thread; then `barriers_ready` by it, and __syncthreads.
__device__ __forceinline__ void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes initialised barriers known to other threads (fence.mbarrier_init, 9.7.13) and to the copies (fence.proxy.async).
__device__ __forceinline__ void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// mbarrier.arrive.expect_tx (9.7.13.15): arrives, and announces bytes that copies bring within this phase.
__device__ __forceinline__ void barrier_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// mbarrier.arrive (9.7.13.15).
__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// How long a wait may take, in units of 2³² nanoseconds: half a minute, where a kernel that is right ends within a second. A wait for
// what never comes then writes to address 0, and the launch ends with an illegal access, where it would keep the GPU for ever. A trap
// would say more, but leaves the compiler in doubt whether a warp stays together; that costs a tenth of the backward's instructions.
#define LONGEST_WAIT "8"
// The end of a round of a wait that began at `since`: back to `again`, or, when it has come, on at `over`.
#define AGAIN_OR_GIVE_UP                         \
    "mov.u32 now, %%globaltimer_hi;\n"           \
    "sub.u32 now, now, since;\n"                 \
    "setp.ge.u32 late, now, " LONGEST_WAIT ";\n" \
    "@late st.global.u32 [nowhere], now;\n"      \
    "bra again;\n"                               \
    "over:\n"                                    \
    "}"

// Waits until the phase of this parity has ended (mbarrier.try_wait.parity, 9.7.13.15.16), for `LONGEST_WAIT` at most. A fresh
// barrier is in its phase 0; a wait for parity 1 returns at once then. The clock is read after a try in vain alone, which itself
// waits for some time.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done, late;\n"
        ".reg .u32 since, now;\n"
        ".reg .u64 nowhere;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "mov.u32 since, %%globaltimer_hi;\n"
        "mov.u64 nowhere, 0;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        AGAIN_OR_GIVE_UP ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// cp.async.bulk.tensor (9.7.9.25): the box at `row`, `column` to a tile, and its bytes counted by the barrier. What lies
// outside of the matrix is zeros, and counted as well. By one thread.
__device__ __forceinline__ void copy_tile(void* tile, const TensorMap* map, Barrier* barrier, int row, int column) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(tile)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

// prefetch.tensormap (9.7.9).
__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Two elements to a tile that products read.
__device__ __forceinline__ void store_for_products(void* at, uint32_t pair) { *reinterpret_cast<uint32_t*>(at) = pair; }

// 2ˣ, to 2⁻²² of it; 0 for −∞ (ex2.approx, 9.7.3).
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What this thread has written to shared memory becomes visible to copies and products (fence.proxy.async, 9.7.13); a barrier
// among writers and readers follows.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Four numbers to shared memory that a copy to device memory reads.
__device__ __forceinline__ void store_for_copies(float* at, const float (&four)[4]) {
    *vector_at<Vec<float>>(at) = Vec<float>{{four[0], four[1], four[2], four[3]}};
}

// cp.async.bulk (9.7.9.25.4.1) from shared to device memory, and cp.reduce.async.bulk (9.7.9.25.4), which adds f32 numbers to
// those there; multiples of 16 bytes. By one thread; bulk_commit groups them.
__device__ __forceinline__ void bulk_store(float* global, const float* shared, int bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void bulk_add(float* global, const float* shared, int bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// All of this thread's groups have read shared memory (cp.async.bulk.wait_group.read, 9.7.9.25), or are done.
__device__ __forceinline__ void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Waits until another block has published `value`, and for what it did before (ld.acquire; chapter 8); it must have begun earlier. Copies
// to and from device memory that follow come after it. For `LONGEST_WAIT` at most, as `barrier_wait`.
__device__ __forceinline__ void wait_for_count(const int* count, int value) {
    asm volatile(
        "{\n"
        ".reg .pred done, late;\n"
        ".reg .s32 found;\n"
        ".reg .u32 since, now;\n"
        ".reg .u64 nowhere;\n"
        "mov.u32 since, %%globaltimer_hi;\n"
        "mov.u64 nowhere, 0;\n"
        "again:\n"
        "ld.acquire.gpu.global.s32 found, [%0];\n"
        "setp.ge.s32 done, found, %1;\n"
        "@done bra over;\n"
        AGAIN_OR_GIVE_UP ::"l"(count),
        "r"(value)
        : "memory");
    asm volatile("fence.proxy.async.global;" ::: "memory");
}
__device__ __forceinline__ void publish_count(int* count, int value) {
    asm volatile("fence.proxy.async.global;" ::: "memory");
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(count), "r"(value) : "memory");
}

// barrier.cta.sync and .arrive (9.7.13) of `threads` threads, whole warps; number 0 is __syncthreads'.
__device__ __forceinline__ void group_sync(int number, int threads) {
    asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ __forceinline__ void group_arrive(int number, int threads) {
    asm volatile("barrier.cta.arrive.aligned %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// setmaxnreg (9.7.19): this warp group's registers a thread.
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// wgmma.fence (9.7.15): before the first product, and before one whose registers have been written since.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// wgmma.commit_group (9.7.15).
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// wgmma.wait_group (9.7.15): all groups but the newest N are done.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps the compiler from using these sums before the wait that stands above.
template <int N>
__device__ __forceinline__ void wgmma_settled(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

// Has these registers written before the fence that stands below.
template <int N>
__device__ __forceinline__ void wgmma_ready(float (&d)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}
template <int N>
__device__ __forceinline__ void wgmma_ready(uint32_t (&a)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3])::"memory");
}

#define OPERANDS8(a, b, c, d, e, f, g, h) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define OPERANDS16 OPERANDS8(0, 1, 2, 3, 4, 5, 6, 7) ", " OPERANDS8(8, 9, 10, 11, 12, 13, 14, 15)
#define OPERANDS32 \
    OPERANDS16 ", " OPERANDS8(16, 17, 18, 19, 20, 21, 22, 23) ", " OPERANDS8(24, 25, 26, 27, 28, 29, 30, 31)
#define OPERANDS64                                                                                                  \
    OPERANDS32 ", " OPERANDS8(32, 33, 34, 35, 36, 37, 38, 39) ", " OPERANDS8(40, 41, 42, 43, 44, 45, 46, 47) ", "  \
        OPERANDS8(48, 49, 50, 51, 52, 53, 54, 55) ", " OPERANDS8(56, 57, 58, 59, 60, 61, 62, 63)
#define OPERANDS96                                                                                                  \
    OPERANDS64 ", " OPERANDS8(64, 65, 66, 67, 68, 69, 70, 71) ", " OPERANDS8(72, 73, 74, 75, 76, 77, 78, 79) ", "  \
        OPERANDS8(80, 81, 82, 83, 84, 85, 86, 87) ", " OPERANDS8(88, 89, 90, 91, 92, 93, 94, 95)
#define OPERANDS128                                                                                                       \
    OPERANDS96 ", " OPERANDS8(96, 97, 98, 99, 100, 101, 102, 103) ", " OPERANDS8(104, 105, 106, 107, 108, 109, 110, 111)  \
        ", " OPERANDS8(112, 113, 114, 115, 116, 117, 118, 119) ", " OPERANDS8(120, 121, 122, 123, 124, 125, 126, 127)

#define SUMS1(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SUMS4(i) SUMS1(i), SUMS1((i) + 1), SUMS1((i) + 2), SUMS1((i) + 3)
#define SUMS8(i) SUMS4(i), SUMS4((i) + 4)
#define SUMS16(i) SUMS8(i), SUMS8((i) + 8)
#define SUMS24(i) SUMS16(i), SUMS8((i) + 16)
#define SUMS32(i) SUMS16(i), SUMS16((i) + 16)

// The numbers of the operands after the sums, in the order of the lists below.
#define WGMMA_SHARED(n, operands, sums, p0, p1, p2, p3, p4)                                                        \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #p2 ", 0;\n"                                               \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" operands "}, %" #p0 ", %" #p1          \
                 ", add, 1, 1, %" #p3 ", %" #p4 ";\n}"                                                               \
                 : sums                                                                                              \
                 : "l"(a), "l"(b), "r"(accumulate), "n"(TRANSPOSED_A), "n"(TRANSPOSED_B))
#define WGMMA_REGISTERS(n, operands, sums, p0, p1, p2, p3, p4, p5, p6)                                             \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #p5 ", 0;\n"                                               \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" operands "}, {%" #p0 ", %" #p1 ", %"   \
                 #p2 ", %" #p3 "}, %" #p4 ", add, 1, 1, %" #p6 ";\n}"                                                \
                 : sums                                                                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TRANSPOSED_B))

// wgmma.mma_async.m64nNk16 (9.7.15.5.2): d [64, N] (+)= A [64, 16] · B [16, N], both by descriptors. The sums lie as
// mma.m16n8k16 has them (9.7.15.5.1.1): warp w of the group has rows 16 w.., eight columns in each d[i].
template <int N, int TRANSPOSED_A, int TRANSPOSED_B>
__device__ __forceinline__ void wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, int accumulate) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "no such product here");
    if constexpr (N == 64) WGMMA_SHARED(64, OPERANDS32, SUMS8(0), 32, 33, 34, 35, 36);
    if constexpr (N == 128) WGMMA_SHARED(128, OPERANDS64, SUMS16(0), 64, 65, 66, 67, 68);
    if constexpr (N == 192)
        WGMMA_SHARED(192, OPERANDS96, SUMS24(0), 96, 97, 98, 99, 100);
    if constexpr (N == 256)
        WGMMA_SHARED(256, OPERANDS128, SUMS32(0), 128, 129, 130, 131, 132);
}

// The same with A in registers, as mma.m16n8k16 has it.
template <int N, int TRANSPOSED_B>
__device__ __forceinline__ void wgmma_from_registers(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b,
                                                     int accumulate) {
    static_assert(N == 64 || N == 128 || N == 256, "no such product here");
    if constexpr (N == 64) WGMMA_REGISTERS(64, OPERANDS32, SUMS8(0), 32, 33, 34, 35, 36, 37, 38);
    if constexpr (N == 128) WGMMA_REGISTERS(128, OPERANDS64, SUMS16(0), 64, 65, 66, 67, 68, 69, 70);
    if constexpr (N == 256)
        WGMMA_REGISTERS(256, OPERANDS128, SUMS32(0), 128, 129, 130, 131, 132, 133, 134);
}

#endif
#endif

#if HAS_HOPPER
// The descriptor of an operand in swizzled tiles (9.7.15.5.1.2): where it begins, in units of 16 bytes as all of it, the leading
// and the stride offset, and swizzle mode 1 (128B). The base offset is 0, as tiles begin at multiples of 1024 bytes.
__device__ __forceinline__ uint64_t operand_descriptor(const unsigned char* at, int leading, int stride) {
    return (uint64_t)(shared_address(at) % (1 << 18) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | 1ull << 62;
}

// An operand whose sums run along a tile's rows (K-major): rows `first`.. of a tile of `rows` rows, sixteen columns from `k` on.
// Eight rows are 1024 bytes; the leading offset is not used in a swizzled layout.
__device__ __forceinline__ uint64_t along_rows(const unsigned char* tile, int rows, int first, int k) {
    return operand_descriptor(tile + k / SWIZZLED_COLUMNS * rows * SWIZZLED_ROW_BYTES + first * SWIZZLED_ROW_BYTES +
                                  k % SWIZZLED_COLUMNS * 2,
                              16, SWIZZLE_BYTES);
}

// An operand whose sums run from row to row (M- or N-major, for TRANSPOSED): columns from `first` on (a multiple of 64) of a tile
// of `rows` rows, sixteen rows from `k` on. 64 columns further is the next tile, 8 rows further 1024 bytes.
__device__ __forceinline__ uint64_t across_rows(const unsigned char* tile, int rows, int first, int k) {
    const int next = rows * SWIZZLED_ROW_BYTES;
    return operand_descriptor(tile + first / SWIZZLED_COLUMNS * next + k * SWIZZLED_ROW_BYTES, next, SWIZZLE_BYTES);
}

// Bytes of a tile of `columns` columns.
__device__ __forceinline__ constexpr int tile_bytes(int rows, int columns) { return rows * columns * 2; }

// All columns of a tile: one copy for each 64.
__device__ __forceinline__ void copy_columns(unsigned char* tile, const TensorMap* map, Barrier* barrier, int rows, int row,
                                             int column, int columns) {
    for (int c = 0; c < columns; c += SWIZZLED_COLUMNS)
        copy_tile(tile + tile_bytes(rows, c), map, barrier, row, column + c);
}

// Where an element of a tile lies, for threads that write it.
__device__ __forceinline__ unsigned char* swizzled_place(unsigned char* tile, int rows, int row, int column) {
    const int in_row = column % SWIZZLED_COLUMNS * 2;
    return tile + tile_bytes(rows, column / SWIZZLED_COLUMNS * SWIZZLED_COLUMNS) + row * SWIZZLED_ROW_BYTES +
           (in_row ^ row % 8 * 16);
}

// Numbers [16, 8 N] of a warp as the left operand of a product, rounded: sixteen columns to each four registers.
template <int N>
__device__ __forceinline__ void pack_operand(uint32_t (&packed)[N / 2][4], const float (&p)[N][4]) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        packed[i][0] = pack_bf16(p[2 * i][0], p[2 * i][1]);
        packed[i][1] = pack_bf16(p[2 * i][2], p[2 * i][3]);
        packed[i][2] = pack_bf16(p[2 * i + 1][0], p[2 * i + 1][1]);
        packed[i][3] = pack_bf16(p[2 * i + 1][2], p[2 * i + 1][3]);
    }
}

// Stages of a ring between a producer and its consumers: stage and parity of the n-th use.
template <int STAGES>
__device__ __forceinline__ int stage_of(int use) {
    return use % STAGES;
}
template <int STAGES>
__device__ __forceinline__ int parity_of(int use) {
    return use / STAGES % 2;
}

// Writes one warp's sums [16, 8 N] to rows of bf16, sixteen bytes a thread: the four threads of a row exchange their pairs, so that
// each has eight neighbours. `at(half)` is the address of the first column in row lane / 4 + 8 half, a multiple of 16 bytes;
// null: no row there. Columns from `columns` on (a multiple of 8) are left out.
template <int N, class At>
__device__ __forceinline__ void store_wide(const float (&d)[N][4], int columns, At at) {
    static_assert(N % 4 == 0, "four blocks of eight columns at a time");
    const int quad = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        bf16* row = at(half);
#pragma unroll
        for (int n = 0; n < N; n += 4) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++) pairs[i] = pack_bf16(d[n + i][half * 2], d[n + i][half * 2 + 1]);
            // A transposition of 4 × 4 pairs among the four threads: first of blocks of two, then within them.
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t away = quad & 2 ? pairs[i] : pairs[i + 2];
                const uint32_t here = __shfl_xor_sync(FULL_WARP, away, 2);
                if (quad & 2)
                    pairs[i] = here;
                else
                    pairs[i + 2] = here;
            }
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const uint32_t away = quad & 1 ? pairs[i] : pairs[i + 1];
                const uint32_t here = __shfl_xor_sync(FULL_WARP, away, 1);
                if (quad & 1)
                    pairs[i] = here;
                else
                    pairs[i + 1] = here;
            }
            Vec<bf16> eight;
            memcpy(&eight, pairs, sizeof eight);
            const int column = (n + quad) * 8;
            if (row && column < columns) store_vec(row + column, eight);
        }
    }
}
#endif
