// What all kernels share: the two element types, 16-byte accesses, sums over a warp and a block.
//
// Every kernel exists for bf16 and for f32 (`NAME_bf16`, `NAME_f32`) and computes in f32. The same sources are compiled
// by a host compiler for the tests (`SELFPLAY_EMULATOR`, model/tests/emulator), which run every thread of every block on
// the processor; nothing here may therefore lean on a CUDA header but through this file.
#pragma once

#ifdef SELFPLAY_EMULATOR
#include "emulator.h"
__device__ __forceinline__ float times(float x, float y) { return x * y; }
__device__ __forceinline__ float plus(float x, float y) { return x + y; }
#else
#include <cuda_bf16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

// Rounded once each, and not contracted to one fused instruction: where the host must be able to give the same bits.
__device__ __forceinline__ float times(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ float plus(float x, float y) { return __fadd_rn(x, y); }

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

// One object in shared memory, uninitialised: STATIC_SHARED(float[32], room).
template <class T>
using SharedType = T;
#define STATIC_SHARED(type, name) __shared__ SharedType<type> name

// Where a whole V is read from or written to at once: a multiple of its alignment, which the emulator checks.
template <class V, class P>
__device__ __forceinline__ V* vector_at(P* p) {
    return reinterpret_cast<V*>(p);
}

__device__ __forceinline__ float bf16_to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ bf16 float_to_bf16(float x) { return __float2bfloat16_rn(x); }

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Four 8 × 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}

// c += a · b for a 16 × 16 (row by row), b 16 × 8 (column by column).
__device__ __forceinline__ void mma_bf16_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two products of bf16, each rounded once; subnormal numbers are kept.
__device__ __forceinline__ uint32_t times_bf16_pair(uint32_t a, uint32_t b) {
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
}

// c += a · b for a 16 × 32 (row by row), b 32 × 8 (column by column) of E4M3. GPUs before sm_89 have none, and are refused before a
// launch (`Launcher::has_fp8`).
__device__ __forceinline__ void mma_e4m3_16x8x32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();
#endif
}

// Sixteen bytes from global to shared memory without registers; zeros where `real` is false.
__device__ __forceinline__ void cp_async_16_zero(void* shared, const void* global, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(real ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

#define WARP 32
#define FULL_WARP 0xffffffffu

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return bf16_to_float(x); }

template <class T>
__device__ __forceinline__ T of_float(float x);
template <>
__device__ __forceinline__ float of_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 of_float<bf16>(float x) {
    return float_to_bf16(x);
}

// eˣ and 1 / x for results that are rounded to T: the fast instructions' error of 2⁻²¹ is nothing to bf16.
template <class T>
__device__ __forceinline__ float exp_of(float x) {
    return expf(x);
}
template <>
__device__ __forceinline__ float exp_of<bf16>(float x) {
    return __expf(x);
}
template <class T>
__device__ __forceinline__ float inverse_of(float x) {
    return 1.0f / x;
}
template <>
__device__ __forceinline__ float inverse_of<bf16>(float x) {
    return __fdividef(1.0f, x);
}
template <class T>
__device__ __forceinline__ float tanh_of(float x) {
    return tanhf(x);
}
template <>
__device__ __forceinline__ float tanh_of<bf16>(float x) {
    // Past ±10 the tangent is ±1 and the quotient's divisor would leave the fast division's range.
    const float y = fminf(fmaxf(x, -10.0f), 10.0f);
    return x != x ? x : 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * y));
}

// As many elements as one 16-byte access moves.
template <class T>
struct __align__(16) Vec {
    static constexpr int N = 16 / sizeof(T);
    T at[N];
};

template <class T>
__device__ __forceinline__ Vec<T> load_vec(const T* p) {
    return *vector_at<const Vec<T>>(p);
}

template <class T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T>& v) {
    *vector_at<Vec<T>>(p) = v;
}

// Whether rows of `width` elements keep 16-byte alignment: a kernel then moves vectors, else single elements.
template <class T>
__device__ __forceinline__ bool is_vectorised(int width) {
    return width % Vec<T>::N == 0;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(FULL_WARP, x, step);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(FULL_WARP, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, step));
    return x;
}

// The sum over a block of at most 1024 threads, in a fixed order, known to all of them. `room` holds 32 numbers.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* room) {
    x = warp_sum(x);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    const int warps = (blockDim.x + WARP - 1) / WARP;
    return warp_sum(lane < warps ? room[lane] : T(0));
}

// As `block_sum`, of two numbers with one barrier. `room` holds 64 numbers, and must not be that of the call before: with two
// rooms in turn a warp that is a call ahead writes to the other one.
__device__ __forceinline__ void block_sum_pair(float& x, float& y, float* room) {
    x = warp_sum(x), y = warp_sum(y);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) room[warp] = x, room[WARP + warp] = y;
    __syncthreads();
    const int warps = (blockDim.x + WARP - 1) / WARP;
    x = warp_sum(lane < warps ? room[lane] : 0.0f);
    y = warp_sum(lane < warps ? room[WARP + lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float x, float* room) {
    x = warp_max(x);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    __syncthreads();
    if (lane == 0) room[warp] = x;
    __syncthreads();
    const int warps = (blockDim.x + WARP - 1) / WARP;
    return warp_max(lane < warps ? room[lane] : -INFINITY);
}

// A kernel for both element types: name_bf16 and name_f32 call body<T> with the same arguments.
#define FOR_BOTH(name, body, parameters_bf16, parameters_f32, arguments)          \
    extern "C" __global__ void name##_bf16 parameters_bf16 { body<bf16> arguments; } \
    extern "C" __global__ void name##_f32 parameters_f32 { body<float> arguments; }
