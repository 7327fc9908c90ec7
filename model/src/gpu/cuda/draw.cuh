// The masses of a row's tokens, and the last token that a filter keeps (draw.cu).
//
// A token's mass is exp((logit − greatest) / temperature) rounded to a multiple of 2⁻³⁴. Sums of such numbers are exact in f64,
// whatever their order: so threads may add as they come, and the kept set and the draw are the CPU's bit for bit. For this the
// exponential is the CPU's too, step by step, without fused multiply-adds. Nothing sorts the vocabulary: tokens are counted into
// buckets by their distance from the greatest, and only the bucket in which the k-th token or the target lies is sorted.
#pragma once
#include "common.cuh"

#define THREADS 512
#define BUCKETS 2048
#define SORTED 1024
// Stretches of a row, whose masses are summed apart: one finds the drawn token in its stretch without a look at the others.
#define STRETCHES 16
// Multiples of a mass's unit.
#define UNIT 17179869184.0

// e^x for x ≤ 0: `exp` of sampler/src/pick/row_pass.rs.
__device__ __forceinline__ float mass_exp(float x) {
    x = x > -86.0f ? x : -86.0f;
    const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504088896340736f), 12582912.0f);
    const float power = __fsub_rn(shifted, 12582912.0f);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(power, 355.0f / 512.0f)), __fmul_rn(power, -2.1219444e-4f));
    float p = 1.9875691e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666665e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 5.0e-1f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

// A mass in units of 2⁻³⁴, of an exponential. An f32 times a power of two is exact: it is rounded once.
__device__ __forceinline__ unsigned long long mass_of_weight(float weight) {
    return (unsigned long long)__float2ll_rn(__fmul_rn(weight, (float)UNIT));
}

__device__ __forceinline__ unsigned long long mass_of(float logit, float greatest, float inverse) {
    return mass_of_weight(mass_exp(__fmul_rn(__fsub_rn(logit, greatest), inverse)));
}

// A number that rises with the rank: falling logit, then rising id.
__device__ __forceinline__ unsigned long long rank_of(float logit, int id) {
    const uint32_t bits = __float_as_uint(logit + 0.0f);
    const uint32_t falling = bits >> 31 ? bits : ~bits & 0x7FFFFFFFu;
    return (unsigned long long)falling << 32 | (uint32_t)id;
}

__device__ __forceinline__ float logit_of(unsigned long long rank) {
    const uint32_t falling = (uint32_t)(rank >> 32);
    return __uint_as_float(falling >> 31 ? falling : ~falling & 0x7FFFFFFFu);
}

// Rises as the logit falls; tokens without mass lie past the last bucket's start and are not needed.
__device__ __forceinline__ int bucket_of(float logit, float greatest, float scale) {
    const float place = (greatest - logit) * scale;
    return place < (float)(BUCKETS - 1) ? (int)place : BUCKETS - 1;
}

// Tokens from the greatest logit on down, and their mass.
struct Prefix {
    unsigned long long mass;
    unsigned tokens;
};

__device__ __forceinline__ Prefix operator+(Prefix a, Prefix b) { return {a.mass + b.mass, a.tokens + b.tokens}; }

// Sums of masses in three parts, of bits 0, 12 and 24 on: a 64-bit sum in shared memory is a loop of compare-and-swap, one of
// 32 bits is a single instruction. A part is below 2¹², so that no sum over 2²⁰ tokens overflows.
template <int N>
struct MassSums {
    unsigned low[N], middle[N], high[N];

    __device__ __forceinline__ void clear(int n) { low[n] = middle[n] = high[n] = 0; }
    __device__ __forceinline__ void add(int n, unsigned long long mass) {
        atomicAdd(&low[n], (unsigned)mass & 0xFFFu);
        atomicAdd(&middle[n], (unsigned)(mass >> 12) & 0xFFFu);
        if (mass >> 24) atomicAdd(&high[n], (unsigned)(mass >> 24));
    }
    __device__ __forceinline__ unsigned long long at(int n) const {
        return low[n] + ((unsigned long long)middle[n] << 12) + ((unsigned long long)high[n] << 24);
    }
};

// The tokens of each bucket, by what the last kept one is found by: their masses or their number; the other is 0.
struct Buckets {
    MassSums<BUCKETS> masses;
    unsigned counts[BUCKETS];
};

struct DrawScratch {
    // The buckets are done with before the keys are written.
    union {
        Buckets buckets;
        unsigned long long keys[SORTED];
    };
    Prefix warps[THREADS / WARP];
    // The masses of each stretch by warps, but for those in `members`.
    unsigned long long stretches[STRETCHES][THREADS / WARP];
    MassSums<STRETCHES> members;
    double room[32];
    float float_room[32];
    // What one thread finds for all.
    Prefix above;
    unsigned long long floor;
    unsigned found, count, chosen;
};

// What the filters go by.
struct RowOfLogits {
    const float* logits;
    // Tokens, and those of a stretch: a multiple of the threads.
    int vocab, stretch;
    float greatest, inverse, scale;

    __device__ __forceinline__ unsigned long long mass(float logit) const { return mass_of(logit, greatest, inverse); }
};

// What the last kept token is found by: the number of tokens, or their mass.
struct Target {
    bool by_count;
    unsigned count;
    double mass;

    __device__ __forceinline__ bool is_reached(Prefix prefix) const {
        return by_count ? prefix.tokens >= count : (double)prefix.mass / UNIT >= mass;
    }
};

__device__ __forceinline__ void clear(Buckets& buckets) {
    for (int b = threadIdx.x; b < BUCKETS; b += THREADS) {
        buckets.masses.clear(b);
        buckets.counts[b] = 0;
    }
}

__device__ __forceinline__ void count_token(Buckets& buckets, int b, unsigned long long mass, bool by_count) {
    if (by_count)
        atomicAdd(&buckets.counts[b], 1u);
    else
        buckets.masses.add(b, mass);
}

__device__ __forceinline__ Prefix bucket_at(const Buckets& buckets, int b) { return {buckets.masses.at(b), buckets.counts[b]}; }

// Calls f(i, logit) for this thread's tokens from `begin` (a multiple of the threads) up to `end`, in their order. AHEAD of them are
// on their way at a time.
template <int AHEAD, class F>
__device__ __forceinline__ void for_each_token(const float* logits, int begin, int end, F f) {
    int i = begin + threadIdx.x;
    for (; i + (AHEAD - 1) * THREADS < end; i += AHEAD * THREADS) {
        float x[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) x[k] = logits[i + k * THREADS];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) f(i + k * THREADS, x[k]);
    }
#pragma unroll 1
    for (; i < end; i += THREADS) f(i, logits[i]);
}

// The sums of what f gives for the tokens of each stretch, in the order of `for_each_token`. Without members.
template <class F>
__device__ __forceinline__ void sum_stretches(DrawScratch& s, const RowOfLogits& row, F f) {
    __syncthreads();
    if (threadIdx.x < STRETCHES) s.members.clear(threadIdx.x);
    for (int stretch = 0; stretch < STRETCHES; stretch++) {
        const int begin = stretch * row.stretch, end = min(begin + row.stretch, row.vocab);
        unsigned long long mine = 0;
        for_each_token<4>(row.logits, begin, end, [&](int i, float logit) { mine += f(i, logit); });
        for (int step = WARP / 2; step > 0; step /= 2) mine += __shfl_xor_sync(FULL_WARP, mine, step);
        if (threadIdx.x % WARP == 0) s.stretches[stretch][threadIdx.x / WARP] = mine;
    }
    __syncthreads();
}

// The mass of a stretch, members included.
__device__ __forceinline__ double stretch_mass(const DrawScratch& s, int stretch) {
    unsigned long long sum = s.members.at(stretch);
    for (int w = 0; w < THREADS / WARP; w++) sum += s.stretches[stretch][w];
    return (double)sum / UNIT;
}

// That of all stretches.
__device__ __forceinline__ double mass_of_stretches(const DrawScratch& s) {
    double sum = 0;
    for (int stretch = 0; stretch < STRETCHES; stretch++) sum += stretch_mass(s, stretch);
    return sum;
}

// The sum of what the threads before this one have.
__device__ Prefix before_thread(DrawScratch& s, Prefix own) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Prefix sum = own;
    for (int step = 1; step < WARP; step *= 2) {
        const Prefix other = {__shfl_up_sync(FULL_WARP, sum.mass, step), __shfl_up_sync(FULL_WARP, sum.tokens, step)};
        if (lane >= step) sum = sum + other;
    }
    __syncthreads();
    if (lane == WARP - 1) s.warps[warp] = sum;
    __syncthreads();
    Prefix before = {sum.mass - own.mass, sum.tokens - own.tokens};
    for (int w = 0; w < warp; w++) before = before + s.warps[w];
    return before;
}

// What a filter leaves: the tokens with rank ≤ floor.
struct Kept {
    unsigned long long floor;
    // Whether the stretches have the masses of these tokens.
    bool is_summed;
};

// The shortest prefix, of tokens with rank ≤ floor, that reaches the target; where none does, all of them. The pass that looks for
// its last token sums what is kept: masses of `least` and more. All threads get the same. `is_counted`: the buckets of distance hold
// all tokens already.
__device__ Kept last_kept(DrawScratch& s, const RowOfLogits& row, unsigned long long floor, Target target,
                          unsigned long long least, bool is_counted) {
    const int thread = threadIdx.x;
    // Level 0: buckets of distance. Then, where a bucket holds too many, digits of the rank, eight bits at a time.
    int shift = 64;
    unsigned long long prefix = 0;
    int first_bucket = -1, chosen;
    Prefix above = {0, 0};
    for (;;) {
        const int next = first_bucket < 0 ? 64 : shift - 8;
        if (!is_counted) {
            __syncthreads();
            clear(s.buckets);
            __syncthreads();
            for_each_token<2>(row.logits, 0, row.vocab, [&](int i, float logit) {
                int b = bucket_of(logit, row.greatest, row.scale);
                if (first_bucket >= 0 && b != first_bucket) return;
                const unsigned long long rank = rank_of(logit, i);
                if (rank > floor || (shift < 64 && rank >> shift != prefix)) return;
                const unsigned long long mass = row.mass(logit);
                if (mass == 0) return;
                if (first_bucket >= 0) b = (int)(rank >> next & 255);
                count_token(s.buckets, b, mass, target.by_count);
            });
        }
        is_counted = false;
        __syncthreads();
        if (thread == 0) s.found = BUCKETS;
        __syncthreads();
        // Each thread has a share of the buckets; in one of the shares the target is reached.
        const int buckets = first_bucket < 0 ? BUCKETS : 256;
        const int share = (buckets + THREADS - 1) / THREADS;
        const int begin = min(thread * share, buckets), end = min(begin + share, buckets);
        Prefix mine = {0, 0};
        for (int b = begin; b < end; b++) mine = mine + bucket_at(s.buckets, b);
        Prefix so_far = above + before_thread(s, mine);
        if (!target.is_reached(so_far) && target.is_reached(so_far + mine)) {
            int b = begin;
            while (!target.is_reached(so_far + bucket_at(s.buckets, b))) so_far = so_far + bucket_at(s.buckets, b++);
            s.found = b;
            s.count = s.buckets.counts[b];
            s.above = so_far;
        }
        __syncthreads();
        // Rounding alone can bring it about that all tokens together do not reach the target.
        if (s.found == BUCKETS) return {floor, false};
        above = s.above;
        if (first_bucket < 0) {
            first_bucket = s.found;
        } else {
            prefix = prefix << 8 | s.found;
            shift = next;
        }
        if (s.count > SORTED && shift > 0) continue;
        // The tokens of the bucket, in any order, and the sums of those above.
        if (thread == 0) {
            s.chosen = 0;
            s.floor = floor;
        }
        sum_stretches(s, row, [&](int i, float logit) -> unsigned long long {
            const int b = bucket_of(logit, row.greatest, row.scale);
            if (b > first_bucket) return 0;
            const unsigned long long rank = rank_of(logit, i);
            if (rank > floor) return 0;
            const unsigned long long digits = shift < 64 ? rank >> shift : 0;
            if (b == first_bucket && digits > prefix) return 0;
            const unsigned long long mass = row.mass(logit);
            if (b < first_bucket || digits < prefix) return mass >= least ? mass : 0;
            if (mass > 0) {
                const unsigned place = atomicAdd(&s.chosen, 1u);
                if (place < SORTED) s.keys[place] = rank;
            }
            return 0;
        });
        chosen = (int)s.chosen;
        // Masses do not tell how many tokens a bucket has.
        if (chosen <= SORTED) break;
    }
    // In the order of rank.
    int sorted = 2;
    while (sorted < chosen) sorted *= 2;
    for (int i = chosen + thread; i < sorted; i += THREADS) s.keys[i] = ~0ull;
    __syncthreads();
    for (int size = 2; size <= sorted; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = thread; i < sorted; i += THREADS) {
                const int other = i ^ step;
                if (other > i) {
                    const bool rising = (i & size) == 0;
                    const unsigned long long a = s.keys[i], b = s.keys[other];
                    if ((a > b) == rising) {
                        s.keys[i] = b;
                        s.keys[other] = a;
                    }
                }
            }
            __syncthreads();
        }
    }
    // As with the buckets.
    const int share = SORTED / THREADS;
    const int begin = min(thread * share, chosen), end = min(begin + share, chosen);
    const auto mass_of_member = [&](int i) { return row.mass(logit_of(s.keys[i])); };
    const auto member = [&](int i) { return Prefix{mass_of_member(i), 1}; };
    Prefix mine = {0, 0};
    for (int i = begin; i < end; i++) mine = mine + member(i);
    Prefix so_far = above + before_thread(s, mine);
    if (!target.is_reached(so_far) && target.is_reached(so_far + mine)) {
        int i = begin;
        while (!target.is_reached(so_far + member(i))) so_far = so_far + member(i++);
        s.floor = s.keys[i];
    }
    __syncthreads();
    for (int i = begin; i < end; i++) {
        const unsigned long long mass = mass_of_member(i);
        if (s.keys[i] <= s.floor && mass >= least) s.members.add((int)(uint32_t)s.keys[i] / row.stretch, mass);
    }
    __syncthreads();
    return {s.floor, true};
}
