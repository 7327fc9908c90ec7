// Numbers of eight bits, E4M3: the conversions of cpu/e4m3.rs, which give the same codes.
#pragma once
#include "common.cuh"

// The largest number.
#define E4M3_MAX 448.0f

// The code of the nearest number, ties to even; what is larger than 448 becomes 448, NaN stays NaN.
__device__ __forceinline__ uint8_t to_e4m3(float x) {
    const uint32_t bits = __float_as_uint(x), size = bits & 0x7fffffffu, sign = (bits >> 31) << 7;
    uint32_t code;
    if (size > 0x7f800000u) {
        code = 0x7f;
    } else if (size >= 0x43e00000u) {  // 448
        code = 0x7e;
    } else if (size < 0x3c800000u) {  // 1 / 64
        // Adding 2²³ rounds to an integer.
        code = (uint32_t)plus(plus(times(__uint_as_float(size), 512.0f), 8388608.0f), -8388608.0f);
    } else {
        code = ((size + 0x7ffffu + ((size >> 20) & 1)) >> 20) - ((127 - 7) << 3);
    }
    return (uint8_t)(sign | code);
}

// What a code means.
__device__ __forceinline__ float from_e4m3(uint8_t code) {
    const uint32_t exponent = (code >> 3) & 15, mantissa = code & 7, sign = (uint32_t)(code >> 7) << 31;
    if (exponent == 15 && mantissa == 7) return __uint_as_float(sign | 0x7fc00000u);
    const float size = exponent == 0 ? (float)mantissa / 512.0f : __uint_as_float(((exponent + 120) << 23) | (mantissa << 20));
    return __uint_as_float(__float_as_uint(size) | sign);
}

// The scale of numbers of which the largest has this size: largest / 448, so that it has the largest code. 1 for zeros; NaN where the
// size is infinite, by which whoever asks also means NaN. As `scale_of` in ops/paged_attention/fp8_pages.rs.
__device__ __forceinline__ float e4m3_scale(float largest) {
    const float smallest = 1.17549435e-38f;
    if (largest == INFINITY) return NAN;
    return largest > 0 ? fmaxf(largest / E4M3_MAX, smallest) : 1.0f;
}

template <>
__device__ __forceinline__ uint8_t of_float<uint8_t>(float x) {
    return to_e4m3(x);
}
