// Log-probability of a target from a row of f32 logits, and its gradient; see kernels/log_prob.rs. One block to a row.
#include "common.cuh"

// The largest logit and Σ exp(z − largest) of a row after the cap, in one pass, known to all threads.
__device__ __forceinline__ void row_statistics(const float* z, int vocab, float cap, float* room, float& largest,
                                               float& total) {
    float max = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        const float x = cap > 0 ? cap * tanhf(z[i] / cap) : z[i];
        // NaN must reach the sum: a comparison with it is false.
        if (x <= max) {
            sum += expf(x - max);
        } else {
            sum = sum * expf(max - x) + 1.0f;
            max = x;
        }
    }
    largest = block_max(max, room);
    // A thread without logits has −∞ − −∞ here.
    total = block_sum(max == -INFINITY ? 0.0f : sum * expf(max - largest), room);
}

extern "C" __global__ void log_prob(float* __restrict__ out, const float* __restrict__ logits,
                                    const uint32_t* __restrict__ targets, int vocab, float cap) {
    __shared__ float room[32];
    const float* z = logits + (int64_t)blockIdx.x * vocab;
    float largest, total;
    row_statistics(z, vocab, cap, room, largest, total);
    if (threadIdx.x == 0) {
        const float x = z[targets[blockIdx.x]];
        out[blockIdx.x] = (cap > 0 ? cap * tanhf(x / cap) : x) - largest - logf(total);
    }
}

// The gradient of d · log_prob with respect to the logits before the cap, in the dtype of the products that follow.
// d_logits may be logits itself where both are f32.
template <class T>
__device__ void log_prob_backward(T* d_logits, const float* logits, const uint32_t* __restrict__ targets,
                                  const float* __restrict__ d, int vocab, float cap) {
    __shared__ float room[32];
    const int64_t at = (int64_t)blockIdx.x * vocab;
    float largest, total;
    row_statistics(logits + at, vocab, cap, room, largest, total);
    const float log_sum = largest + logf(total), factor = d[blockIdx.x];
    const int target = targets[blockIdx.x];
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float x = logits[at + i], slope = 1.0f;
        if (cap > 0) {
            const float t = tanhf(x / cap);
            x = cap * t;
            slope = 1.0f - t * t;
        }
        d_logits[at + i] = of_float<T>(factor * ((i == target ? 1.0f : 0.0f) - expf(x - log_sum)) * slope);
    }
}

FOR_BOTH(log_prob_backward, log_prob_backward,
         (bf16 * d_logits, const float* logits, const uint32_t* targets, const float* d, int vocab, float cap),
         (float* d_logits, const float* logits, const uint32_t* targets, const float* d, int vocab, float cap),
         (d_logits, logits, targets, d, vocab, cap))
