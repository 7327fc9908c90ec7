// Log-probability of a target from a row of f32 logits, and its gradient; see ops/log_prob.rs. One block to a row.
#include "common.cuh"

__device__ __forceinline__ float capped(float z, float cap) { return cap > 0 ? cap * tanhf(z / cap) : z; }

// The largest logit and Σ exp(z − largest) of a row after the cap, in one pass, known to all threads.
__device__ __forceinline__ void row_statistics(const float* z, int vocab, float cap, float* room, float& largest,
                                               float& total) {
    // The fast exponential's relative error, 2⁻²¹ at the largest terms, shifts a log-prob by as much: f32's own noise.
    float max = -INFINITY, sum = 0;
    if (vocab % 4 == 0) {
        for (int i = threadIdx.x * 4; i < vocab; i += blockDim.x * 4) {
            Vec<float> v = load_vec(z + i);
#pragma unroll
            for (int j = 0; j < 4; j++) v.at[j] = capped(v.at[j], cap);
            // fmaxf passes over NaN; its exponential below does not.
            const float most = fmaxf(fmaxf(v.at[0], v.at[1]), fmaxf(v.at[2], v.at[3]));
            if (most > max) {
                sum *= __expf(max - most);
                max = most;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) sum += __expf(v.at[j] - max);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
            const float x = capped(z[i], cap);
            if (x > max) {
                sum *= __expf(max - x);
                max = x;
            }
            sum += __expf(x - max);
        }
    }
    largest = block_max(max, room);
    // A thread without logits has −∞ − −∞ here.
    total = block_sum(max == -INFINITY && sum == 0 ? 0.0f : sum * __expf(max - largest), room);
}

extern "C" __global__ void log_prob(float* __restrict__ out, const float* __restrict__ logits,
                                    const uint32_t* __restrict__ targets, int vocab, float cap) {
    STATIC_SHARED(float[32], room);
    const float* z = logits + (int64_t)blockIdx.x * vocab;
    float largest, total;
    row_statistics(z, vocab, cap, room, largest, total);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = capped(z[targets[blockIdx.x]], cap) - largest - logf(total);
    }
}

// The gradient of d · log_prob with respect to the logits before the cap, in the dtype of the products that follow.
// d_logits may be logits itself where both are f32.
template <class T>
__device__ void log_prob_backward(T* d_logits, const float* logits, const uint32_t* __restrict__ targets,
                                  const float* __restrict__ d, int vocab, float cap) {
    STATIC_SHARED(float[32], room);
    const int64_t at = (int64_t)blockIdx.x * vocab;
    float largest, total;
    row_statistics(logits + at, vocab, cap, room, largest, total);
    const float log_sum = largest + logf(total), factor = d[blockIdx.x];
    const int target = targets[blockIdx.x];
    const auto gradient = [&](float x, int i) {
        float slope = 1.0f;
        if (cap > 0) {
            const float t = tanhf(x / cap);
            x = cap * t;
            slope = 1.0f - t * t;
        }
        return factor * ((i == target ? 1.0f : 0.0f) - exp_of<T>(x - log_sum)) * slope;
    };
    constexpr int N = Vec<T>::N;
    if (vocab % N == 0) {
        for (int i = threadIdx.x * N; i < vocab; i += blockDim.x * N) {
            Vec<T> out;
#pragma unroll
            for (int four = 0; four < N; four += 4) {
                const Vec<float> z = load_vec(logits + at + i + four);
#pragma unroll
                for (int j = 0; j < 4; j++) out.at[four + j] = of_float<T>(gradient(z.at[j], i + four + j));
            }
            store_vec(d_logits + at + i, out);
        }
    } else {
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) d_logits[at + i] = of_float<T>(gradient(logits[at + i], i));
    }
}

FOR_BOTH(log_prob_backward, log_prob_backward,
         (bf16 * d_logits, const float* logits, const uint32_t* targets, const float* d, int vocab, float cap),
         (float* d_logits, const float* logits, const uint32_t* targets, const float* d, int vocab, float cap),
         (d_logits, logits, targets, d, vocab, cap))
