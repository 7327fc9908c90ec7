// Clip, update of the f32 weights and the bf16 copy in one pass; see trainer/src/optimizer. Sums of squares for the norm.
//
// Every product and sum of an update is rounded by itself (`times`, `plus`), as the host's are: a training has the same bits
// whether the device or the host keeps the optimizer's state.
#include "common.cuh"

// What is the same for all elements of a step.
struct RmsProp {
    float scale, decay, alpha, rest, epsilon, momentum, rate;
};

// One element in registers.
__device__ __forceinline__ void rmsprop_element(const RmsProp& o, float& w, float gradient, float& v, float* mean,
                                                float* buffer) {
    const float g = plus(times(o.scale, gradient), times(o.decay, w));
    v = plus(times(o.alpha, v), times(times(o.rest, g), g));
    float variance = v;
    if (mean) {
        *mean = plus(*mean, times(o.rest, g - *mean));
        variance = fmaxf(plus(v, -times(*mean, *mean)), 0.0f);
    }
    const float step = g / (sqrtf(variance) + o.epsilon);
    if (buffer) {
        *buffer = plus(times(o.momentum, *buffer), step);
        w = plus(w, -times(o.rate, *buffer));
    } else {
        w = plus(w, -times(o.rate, step));
    }
}

struct AdamW {
    float scale, keep, rest1, beta2, rest2, epsilon, root_correction, step_size;
};

__device__ __forceinline__ void adamw_element(const AdamW& o, float& w, float gradient, float& m, float& v) {
    const float g = times(o.scale, gradient);
    m = plus(m, times(o.rest1, g - m));
    v = plus(times(o.beta2, v), times(times(o.rest2, g), g));
    const float divisor = plus(times(sqrtf(v), o.root_correction), o.epsilon);
    w = plus(times(w, o.keep), -times(o.step_size, m / divisor));
}

// f(i, n): n consecutive elements from i on, four wherever four are left.
template <class F>
__device__ __forceinline__ void for_fours(int64_t n, F f) {
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = thread * 4; i < n; i += threads * 4) f(i, n - i < 4 ? (int)(n - i) : 4);
}

struct __align__(8) Four {
    bf16 at[4];
};

__device__ __forceinline__ void store_copy(bf16* copy, int64_t i, int count, const Vec<float>& w) {
    if (!copy) return;
    if (count == 4) {
        Four four;
#pragma unroll
        for (int j = 0; j < 4; j++) four.at[j] = float_to_bf16(w.at[j]);
        *vector_at<Four>(copy + i) = four;
    } else {
        for (int j = 0; j < count; j++) copy[i + j] = float_to_bf16(w.at[j]);
    }
}

__device__ __forceinline__ Vec<float> load_some(const float* p, int64_t i, int count) {
    if (count == 4) return load_vec(p + i);
    Vec<float> v = {};
    for (int j = 0; j < count; j++) v.at[j] = p[i + j];
    return v;
}

__device__ __forceinline__ void store_some(float* p, int64_t i, int count, const Vec<float>& v) {
    if (count == 4) {
        store_vec(p + i, v);
    } else {
        for (int j = 0; j < count; j++) p[i + j] = v.at[j];
    }
}

// copy, mean and buffer may be absent.
extern "C" __global__ void rmsprop(float* weight, bf16* copy, const float* gradient, float* square, float* mean,
                                   float* buffer, int64_t n, float scale, float decay, float alpha, float rest,
                                   float epsilon, float momentum, float rate) {
    const RmsProp o = {scale, decay, alpha, rest, epsilon, momentum, rate};
    for_fours(n, [&](int64_t i, int count) {
        Vec<float> w = load_some(weight, i, count), v = load_some(square, i, count), a = {}, b = {};
        const Vec<float> g = load_some(gradient, i, count);
        if (mean) a = load_some(mean, i, count);
        if (buffer) b = load_some(buffer, i, count);
#pragma unroll
        for (int j = 0; j < 4; j++)
            rmsprop_element(o, w.at[j], g.at[j], v.at[j], mean ? &a.at[j] : nullptr, buffer ? &b.at[j] : nullptr);
        store_some(weight, i, count, w);
        store_some(square, i, count, v);
        if (mean) store_some(mean, i, count, a);
        if (buffer) store_some(buffer, i, count, b);
        store_copy(copy, i, count, w);
    });
}

extern "C" __global__ void adamw(float* weight, bf16* copy, const float* gradient, float* first, float* second,
                                 int64_t n, float scale, float keep, float rest1, float beta2, float rest2,
                                 float epsilon, float root_correction, float step_size) {
    const AdamW o = {scale, keep, rest1, beta2, rest2, epsilon, root_correction, step_size};
    for_fours(n, [&](int64_t i, int count) {
        Vec<float> w = load_some(weight, i, count), m = load_some(first, i, count), v = load_some(second, i, count);
        const Vec<float> g = load_some(gradient, i, count);
#pragma unroll
        for (int j = 0; j < 4; j++) adamw_element(o, w.at[j], g.at[j], m.at[j], v.at[j]);
        store_some(weight, i, count, w);
        store_some(first, i, count, m);
        store_some(second, i, count, v);
        store_copy(copy, i, count, w);
    });
}

// State in eight bits (trainer/src/optimizer/eight_bit): a block of 256 threads has a block of 256 numbers. A table holds what
// the 256 codes mean, ascending, and the 256 limits between neighbouring magnitudes, infinity behind the last.
constexpr int CODED_BLOCK = 256;

// How many limits lie below |x|, turned into a code. Signed codes have 0 at 127 and keep the sign of x.
__device__ __forceinline__ uint8_t coded(const float* limits, bool is_signed, float x) {
    const float size = fabsf(x);
    int place = 0;
#pragma unroll
    for (int half = 128; half; half /= 2)
        if (limits[place + half - 1] < size) place += half;
    if (!is_signed) return (uint8_t)place;
    if (copysignf(1.0f, x) > 0) return (uint8_t)(127 + place);
    return (uint8_t)(127 - (place < 1 ? 1 : place > 127 ? 127 : place));
}

// One number of a state: read at the beginning of a step, written at its end.
struct Coded {
    float table[512];
    float room[32];
};

__device__ __forceinline__ void load_table(Coded& state, const float* table) {
    for (int i = threadIdx.x; i < 512; i += CODED_BLOCK) state.table[i] = table[i];
}

__device__ __forceinline__ float decode(const Coded& state, const uint8_t* codes, const float* magnitudes, int64_t i,
                                        int64_t n) {
    return i < n ? state.table[codes[i]] * magnitudes[blockIdx.x] : 0.0f;
}

__device__ __forceinline__ void encode(Coded& state, bool is_signed, uint8_t* codes, float* magnitudes, float x, int64_t i,
                                       int64_t n) {
    const float largest = block_max(fabsf(x), state.room);
    if (threadIdx.x == 0) magnitudes[blockIdx.x] = largest;
    if (i >= n) return;
    const uint8_t zero = is_signed ? 127 : 0;
    codes[i] = largest == 0 ? zero : coded(state.table + 256, is_signed, x / largest);
}

extern "C" __global__ void rmsprop_8bit(float* weight, bf16* copy, const float* gradient, uint8_t* codes,
                                        float* magnitudes, const float* table, int64_t n, float scale, float decay,
                                        float alpha, float rest, float epsilon, float momentum, float rate) {
    STATIC_SHARED(Coded, square);
    const RmsProp o = {scale, decay, alpha, rest, epsilon, momentum, rate};
    const int64_t i = (int64_t)blockIdx.x * CODED_BLOCK + threadIdx.x;
    load_table(square, table);
    __syncthreads();
    float v = decode(square, codes, magnitudes, i, n);
    if (i < n) {
        float w = weight[i];
        rmsprop_element(o, w, gradient[i], v, nullptr, nullptr);
        weight[i] = w;
        if (copy) copy[i] = float_to_bf16(w);
    }
    encode(square, true, codes, magnitudes, v, i, n);
}

extern "C" __global__ void adamw_8bit(float* weight, bf16* copy, const float* gradient, uint8_t* codes,
                                      float* magnitudes, const float* table, uint8_t* square_codes,
                                      float* square_magnitudes, const float* square_table, int64_t n, float scale,
                                      float keep, float rest1, float beta2, float rest2, float epsilon,
                                      float root_correction, float step_size) {
    STATIC_SHARED(Coded, mean);
    STATIC_SHARED(Coded, square);
    const AdamW o = {scale, keep, rest1, beta2, rest2, epsilon, root_correction, step_size};
    const int64_t i = (int64_t)blockIdx.x * CODED_BLOCK + threadIdx.x;
    load_table(mean, table);
    load_table(square, square_table);
    __syncthreads();
    float m = decode(mean, codes, magnitudes, i, n), v = decode(square, square_codes, square_magnitudes, i, n);
    if (i < n) {
        float w = weight[i];
        adamw_element(o, w, gradient[i], m, v);
        weight[i] = w;
        if (copy) copy[i] = float_to_bf16(w);
    }
    encode(mean, true, codes, magnitudes, m, i, n);
    encode(square, false, square_codes, square_magnitudes, v, i, n);
}

// partial[blockIdx.x] = Σ x² over this block's share, in f64.
extern "C" __global__ void sum_of_squares(double* __restrict__ partial, const float* __restrict__ x, int64_t n) {
    STATIC_SHARED(double[32], room);
    double total = 0;
    for_fours(n, [&](int64_t i, int count) {
        const Vec<float> v = load_some(x, i, count);
#pragma unroll
        for (int j = 0; j < 4; j++) total += (double)v.at[j] * v.at[j];
    });
    total = block_sum(total, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}
