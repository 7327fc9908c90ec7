// One token from a row of logits, the very one that sampler/src/pick/sampling.rs picks: temperature → top-k → top-p → min-p, then
// the inverse of the cumulative distribution in the order of ids, by one counter-based number.
//
// A token's mass is exp((logit − greatest) / temperature) rounded to a multiple of 2⁻³⁴. Sums of such numbers are exact in f64,
// whatever their order: so threads may add as they come, and the kept set and the draw are the CPU's bit for bit. For this the
// exponential is the CPU's too, step by step, without fused multiply-adds. Nothing sorts the vocabulary: tokens are counted into
// buckets by their distance from the greatest, and only the bucket in which the k-th token or the target lies is sorted.
#include "common.cuh"

#define THREADS 512
#define BUCKETS 2048
#define SORTED 1024
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

// A mass in units of 2⁻³⁴.
__device__ __forceinline__ unsigned long long mass_of(float logit, float greatest, float inverse) {
    const float weight = mass_exp(__fmul_rn(__fsub_rn(logit, greatest), inverse));
    return (unsigned long long)__double2ll_rn((double)weight * UNIT);
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

// One token to be drawn, with the rule that it is drawn by: the words of `RowDraw` in ops/draw.rs.
struct Draw {
    uint32_t row, step, sample, tag[2], key[2];
    // The first k tokens; 0: all.
    int top_k;
    // 0: the greatest logit. Distances from it are multiplied with `inverse`.
    float temperature, inverse;
    double top_p, min_p;
};

// Tokens from the greatest logit on down, and their mass.
struct Prefix {
    unsigned long long mass;
    unsigned tokens;
};

__device__ __forceinline__ Prefix operator+(Prefix a, Prefix b) { return {a.mass + b.mass, a.tokens + b.tokens}; }

// A bucket's mass in three parts, of bits 0, 12 and 24 on: a 64-bit sum in shared memory is a loop of compare-and-swap, one of
// 32 bits is a single instruction. A part is below 2¹², so that no sum over 2²⁰ tokens overflows.
struct Buckets {
    unsigned low[BUCKETS], middle[BUCKETS], high[BUCKETS], counts[BUCKETS];
};

struct DrawScratch {
    // The buckets are done with before the keys are written.
    union {
        Buckets buckets;
        unsigned long long keys[SORTED];
    };
    Prefix warps[THREADS / WARP];
    double room[32];
    float float_room[32];
    // What one thread finds for all.
    Prefix above;
    unsigned long long floor;
    unsigned found, members, chosen;
};

// What the filters go by.
struct RowOfLogits {
    const float* logits;
    int vocab;
    float greatest, inverse, scale;
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
    for (int b = threadIdx.x; b < BUCKETS; b += THREADS)
        buckets.low[b] = buckets.middle[b] = buckets.high[b] = buckets.counts[b] = 0;
}

__device__ __forceinline__ void count_token(Buckets& buckets, int b, unsigned long long mass, bool by_count) {
    atomicAdd(&buckets.counts[b], 1u);
    if (by_count) return;
    atomicAdd(&buckets.low[b], (unsigned)mass & 0xFFFu);
    atomicAdd(&buckets.middle[b], (unsigned)(mass >> 12) & 0xFFFu);
    if (mass >> 24) atomicAdd(&buckets.high[b], (unsigned)(mass >> 24));
}

__device__ __forceinline__ Prefix bucket_at(const Buckets& buckets, int b) {
    return {buckets.low[b] + ((unsigned long long)buckets.middle[b] << 12) + ((unsigned long long)buckets.high[b] << 24),
            buckets.counts[b]};
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

// The rank of the last token that is kept: the shortest prefix, of tokens with rank ≤ floor, that reaches the target. Where no
// prefix does, floor itself. All threads get it. `is_counted`: the buckets of distance hold all tokens already.
__device__ unsigned long long last_kept(DrawScratch& s, const RowOfLogits& row, unsigned long long floor, Target target,
                                        bool is_counted) {
    const int thread = threadIdx.x;
    // Level 0: buckets of distance. Then, where a bucket holds too many, digits of the rank, eight bits at a time.
    int shift = 64;
    unsigned long long prefix = 0;
    int first_bucket = -1;
    Prefix above = {0, 0};
    for (;;) {
        const int next = first_bucket < 0 ? 64 : shift - 8;
        if (!is_counted) {
            __syncthreads();
            clear(s.buckets);
            __syncthreads();
            for (int i = thread; i < row.vocab; i += THREADS) {
                const float logit = row.logits[i];
                int b = bucket_of(logit, row.greatest, row.scale);
                if (first_bucket >= 0 && b != first_bucket) continue;
                const unsigned long long rank = rank_of(logit, i);
                if (rank > floor || (shift < 64 && rank >> shift != prefix)) continue;
                const unsigned long long mass = mass_of(logit, row.greatest, row.inverse);
                if (mass == 0) continue;
                if (first_bucket >= 0) b = (int)(rank >> next & 255);
                count_token(s.buckets, b, mass, target.by_count);
            }
        }
        is_counted = false;
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
            s.members = s.buckets.counts[b];
            s.above = so_far;
        }
        __syncthreads();
        // Rounding alone can bring it about that all tokens together do not reach the target.
        if (s.found == BUCKETS) return floor;
        above = s.above;
        if (first_bucket < 0) {
            first_bucket = s.found;
        } else {
            prefix = prefix << 8 | s.found;
            shift = next;
        }
        if (s.members <= SORTED || shift == 0) break;
    }
    // The bucket's tokens in the order of rank.
    if (thread == 0) {
        s.chosen = 0;
        s.floor = floor;
    }
    __syncthreads();
    for (int i = thread; i < row.vocab; i += THREADS) {
        const float logit = row.logits[i];
        if (bucket_of(logit, row.greatest, row.scale) != first_bucket) continue;
        const unsigned long long rank = rank_of(logit, i);
        if (rank > floor || (shift < 64 && rank >> shift != prefix)) continue;
        if (mass_of(logit, row.greatest, row.inverse) == 0) continue;
        s.keys[atomicAdd(&s.chosen, 1u)] = rank;
    }
    __syncthreads();
    const int chosen = (int)s.chosen;
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
    const auto member = [&](int i) { return Prefix{mass_of(logit_of(s.keys[i]), row.greatest, row.inverse), 1}; };
    Prefix mine = {0, 0};
    for (int i = begin; i < end; i++) mine = mine + member(i);
    Prefix so_far = above + before_thread(s, mine);
    if (!target.is_reached(so_far) && target.is_reached(so_far + mine)) {
        int i = begin;
        while (!target.is_reached(so_far + member(i))) so_far = so_far + member(i++);
        s.floor = s.keys[i];
    }
    __syncthreads();
    return s.floor;
}

// Philox4x32-10: `philox4x32_10` of sampler/src/pick/random.rs; the first two words as a number of [0, 1).
__device__ double uniform_of(uint32_t step, uint32_t sample, uint32_t tag0, uint32_t tag1, uint32_t key0, uint32_t key1) {
    uint32_t c[4] = {step, sample, tag0, tag1};
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        const uint64_t first = (uint64_t)c[0] * 0xD2511F53u, second = (uint64_t)c[2] * 0xCD9E8D57u;
        const uint32_t a = (uint32_t)(second >> 32) ^ c[1] ^ key0, d = (uint32_t)(first >> 32) ^ c[3] ^ key1;
        c[0] = a;
        c[1] = (uint32_t)second;
        c[2] = d;
        c[3] = (uint32_t)first;
    }
    const uint64_t bits = ((uint64_t)c[0] << 32 | c[1]) >> 11;
    return (double)bits * (1.0 / 9007199254740992.0);
}

// Draw blockIdx.x by its own rule. ids gets the token, or 2³² − 1 where the row holds a NaN or +∞ or is −∞ alone; log_probs its
// log-probability under the unmodified distribution.
// Dynamic shared memory: a DrawScratch.
__device__ void draw_token(uint32_t* __restrict__ ids, float* __restrict__ log_probs, const float* __restrict__ logits,
                           const Draw* __restrict__ draws, int vocab) {
    DYNAMIC_SHARED(dynamic);
    DrawScratch& s = *reinterpret_cast<DrawScratch*>(dynamic);
    const Draw draw = draws[blockIdx.x];
    const float temperature = draw.temperature, inverse = draw.inverse;
    const int top_k = draw.top_k;
    const double top_p = draw.top_p, min_p = draw.min_p;
    const int thread = threadIdx.x;
    RowOfLogits row = {logits + (int64_t)draw.row * vocab, vocab, -INFINITY, inverse, 0};

    float greatest = -INFINITY, broken = 0;
    for (int i = thread; i < vocab; i += THREADS) {
        const float x = row.logits[i];
        if (x != x) broken = 1;
        greatest = fmaxf(greatest, x);
    }
    row.greatest = block_max(greatest, s.float_room);
    if (block_max(broken, s.float_room) > 0 || fabsf(row.greatest) == INFINITY) {
        if (thread == 0) {
            ids[blockIdx.x] = 0xFFFFFFFFu;
            log_probs[blockIdx.x] = 0;
        }
        return;
    }
    // Past this distance a mass rounds to 0: 35 ln 2, and a little.
    row.scale = (float)BUCKETS * inverse / 24.4f;
    const bool by_count = top_k > 0 && top_k < vocab;
    const bool is_counted = temperature != 0 && (by_count || top_p < 1.0);
    if (is_counted) {
        clear(s.buckets);
        __syncthreads();
    }
    double plain = 0;
    unsigned long long all_mass = 0;
    for (int i = thread; i < vocab; i += THREADS) {
        const float logit = row.logits[i];
        plain += (double)mass_exp(__fsub_rn(logit, row.greatest));
        const unsigned long long mass = mass_of(logit, row.greatest, inverse);
        all_mass += mass;
        if (is_counted && mass > 0)
            count_token(s.buckets, bucket_of(logit, row.greatest, row.scale), mass, by_count);
    }
    plain = block_sum(plain, s.room);
    double total = block_sum((double)all_mass / UNIT, s.room);

    int chosen = -1;
    if (temperature == 0) {
        int best = vocab;
        for (int i = thread; i < vocab; i += THREADS)
            if (row.logits[i] == row.greatest) best = min(best, i);
        // Ids are below 2²⁴ or not: an f64 holds them all.
        double least = best;
        for (int step = WARP / 2; step > 0; step /= 2) least = fmin(least, __shfl_xor_sync(FULL_WARP, least, step));
        __syncthreads();
        if (thread % WARP == 0) s.room[thread / WARP] = least;
        __syncthreads();
        for (int w = 0; w < THREADS / WARP; w++) least = fmin(least, s.room[w]);
        chosen = (int)least;
    } else {
        unsigned long long floor = ~0ull;
        const unsigned long long least = (unsigned long long)ceil(min_p * UNIT);
        const auto kept_mass = [&](int i) -> unsigned long long {
            const float logit = row.logits[i];
            if (rank_of(logit, i) > floor) return 0;
            const unsigned long long mass = mass_of(logit, row.greatest, inverse);
            return mass >= least ? mass : 0;
        };
        if (by_count) {
            floor = last_kept(s, row, floor, {true, (unsigned)top_k, 0}, true);
            unsigned long long mine = 0;
            for (int i = thread; i < vocab; i += THREADS)
                if (rank_of(row.logits[i], i) <= floor) mine += mass_of(row.logits[i], row.greatest, inverse);
            total = block_sum((double)mine / UNIT, s.room);
        }
        if (top_p < 1.0) floor = last_kept(s, row, floor, {false, 0, top_p * total}, !by_count);
        // Every warp sums a stretch of its own, then a part of the stretch that holds the draw; one warp walks through that part.
        const int warp = thread / WARP, lane = thread % WARP, warps = THREADS / WARP;
        int begin = 0, end = vocab;
        double below = 0, target = 0;
        // Nothing is above the target: the last token that is kept.
        bool wants_last = false;
        for (int level = 0; level < 2; level++) {
            const int stretch = (end - begin + warps - 1) / warps;
            const int first = min(begin + warp * stretch, end), last = min(first + stretch, end);
            unsigned long long mine = 0;
            for (int i = first + lane; i < last; i += WARP) mine += kept_mass(i);
            const double sum = warp_sum((double)mine / UNIT);
            __syncthreads();
            if (lane == 0) s.room[warp] = sum;
            __syncthreads();
            if (level == 0) {
                double all = 0;
                for (int w = 0; w < warps; w++) all += s.room[w];
                target = uniform_of(draw.step, draw.sample, draw.tag[0], draw.tag[1], draw.key[0], draw.key[1]) * all;
            }
            int at = 0, last_with_mass = 0;
            double up_to = below, up_to_last = below;
            for (; at < warps; at++) {
                if (s.room[at] > 0) {
                    last_with_mass = at;
                    up_to_last = up_to;
                }
                if (!wants_last && up_to + s.room[at] > target) break;
                up_to += s.room[at];
            }
            if (at == warps) {
                wants_last = true;
                at = last_with_mass;
                up_to = up_to_last;
            }
            below = up_to;
            begin = min(begin + at * stretch, end);
            end = min(begin + stretch, end);
        }
        if (warp == 0) {
            for (int start = begin; start < end; start += WARP) {
                const int i = start + lane;
                const unsigned long long mass = i < end ? kept_mass(i) : 0;
                // The kept mass up to and with this lane.
                double sum = (double)mass / UNIT;
                for (int step = 1; step < WARP; step *= 2) {
                    const double other = __shfl_up_sync(FULL_WARP, sum, step);
                    if (lane >= step) sum += other;
                }
                const unsigned hits = __ballot_sync(FULL_WARP, mass > 0 && (wants_last || below + sum > target));
                if (hits) chosen = start + (wants_last ? 31 - __clz(hits) : __ffs(hits) - 1);
                if (hits && !wants_last) break;
                below += __shfl_sync(FULL_WARP, sum, WARP - 1);
            }
            if (lane == 0) s.found = (unsigned)chosen;
        }
        __syncthreads();
        chosen = (int)s.found;
    }
    if (thread == 0) {
        ids[blockIdx.x] = (uint32_t)chosen;
        log_probs[blockIdx.x] = (float)((double)row.logits[chosen] - (double)row.greatest - log(plain));
    }
}

static_assert(sizeof(DrawScratch) <= 40960, "ops/draw.rs asks for as much shared memory");
static_assert(sizeof(Draw) == 14 * sizeof(uint32_t), "ops/draw.rs writes as many words");

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    draw(uint32_t* ids, float* log_probs, const float* logits, const Draw* draws, int vocab) {
    draw_token(ids, log_probs, logits, draws, vocab);
}

// A draw without a token, and a token that no draw gives: `NONE` and `NO_SOURCE` of ops/draw.rs.
#define NO_TOKEN 0xffffffffu

// ids[i] = the token of draw source[i] of the step before, where there is one; a draw without a token gives token 0.
extern "C" __global__ void feed_drawn(uint32_t* __restrict__ ids, const uint32_t* __restrict__ source,
                                      const uint32_t* __restrict__ drawn, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || source[i] == NO_TOKEN) return;
    const uint32_t id = drawn[source[i]];
    ids[i] = id == NO_TOKEN ? 0 : id;
}
