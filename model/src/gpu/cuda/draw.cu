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

struct DrawScratch {
    unsigned long long masses[BUCKETS];
    unsigned counts[BUCKETS];
    unsigned long long keys[SORTED];
    unsigned long long partial[THREADS];
    double room[32];
    float float_room[32];
    // What one thread finds for all.
    unsigned long long prefix, above_mass, floor;
    unsigned above_count, found, members, chosen;
};

// What the filters go by.
struct RowOfLogits {
    const float* logits;
    int vocab;
    float greatest, inverse, scale;
};

// The rank of the last token that is kept: the shortest prefix, of tokens with rank ≤ floor, that has `count` tokens (by_count)
// or a mass of `target`. Where no prefix reaches it, floor itself. All threads get it.
__device__ unsigned long long last_kept(DrawScratch& s, const RowOfLogits& row, unsigned long long floor, bool by_count,
                                        unsigned count, double target) {
    const int thread = threadIdx.x;
    const auto reached = [&](unsigned long long mass, unsigned tokens) {
        return by_count ? tokens >= count : (double)mass / UNIT >= target;
    };
    // Level 0: buckets of distance. Then, where a bucket holds too many, digits of the rank, eight bits at a time.
    int shift = 64;
    unsigned long long prefix = 0;
    int first_bucket = -1;
    __syncthreads();
    if (thread == 0) {
        s.above_mass = 0;
        s.above_count = 0;
    }
    for (;;) {
        const int buckets = first_bucket < 0 ? BUCKETS : 256;
        for (int b = thread; b < BUCKETS; b += THREADS) {
            s.masses[b] = 0;
            s.counts[b] = 0;
        }
        __syncthreads();
        const int next = first_bucket < 0 ? 64 : shift - 8;
        for (int i = thread; i < row.vocab; i += THREADS) {
            const float logit = row.logits[i];
            const unsigned long long mass = mass_of(logit, row.greatest, row.inverse), rank = rank_of(logit, i);
            if (mass == 0 || rank > floor) continue;
            int b = bucket_of(logit, row.greatest, row.scale);
            if (first_bucket >= 0) {
                if (b != first_bucket || (shift < 64 && rank >> shift != prefix)) continue;
                b = (int)(rank >> next & 255);
            }
            atomicAdd(&s.masses[b], mass);
            atomicAdd(&s.counts[b], 1u);
        }
        __syncthreads();
        // Each thread sums its share of the buckets; then one walks over the shares.
        const int share = (buckets + THREADS - 1) / THREADS;
        unsigned long long mine = 0;
        unsigned my_count = 0;
        for (int b = thread * share; b < min((thread + 1) * share, buckets); b++) {
            mine += s.masses[b];
            my_count += s.counts[b];
        }
        s.partial[thread] = by_count ? my_count : mine;
        __syncthreads();
        if (thread == 0) {
            s.found = BUCKETS;
            unsigned long long so_far = by_count ? s.above_count : s.above_mass;
            int part = 0;
            while (part < THREADS && !reached(so_far + s.partial[part], (unsigned)(so_far + s.partial[part])))
                so_far += s.partial[part++];
            unsigned long long mass = s.above_mass;
            unsigned tokens = s.above_count;
            for (int b = 0; b < min(part * share, buckets); b++) {
                mass += s.masses[b];
                tokens += s.counts[b];
            }
            for (int b = part * share; b < buckets; b++) {
                if (reached(mass + s.masses[b], tokens + s.counts[b]) && s.counts[b] > 0) {
                    s.found = b;
                    s.members = s.counts[b];
                    break;
                }
                mass += s.masses[b];
                tokens += s.counts[b];
            }
            s.above_mass = mass;
            s.above_count = tokens;
        }
        __syncthreads();
        // Rounding alone can bring it about that all tokens together do not reach the target.
        if (s.found == BUCKETS) return floor;
        if (first_bucket < 0) {
            first_bucket = s.found;
        } else {
            prefix = prefix << 8 | s.found;
            shift = next;
        }
        if (s.members <= SORTED || shift == 0) break;
        __syncthreads();
    }
    // The bucket's tokens in the order of rank.
    if (thread == 0) s.chosen = 0;
    for (int i = thread; i < SORTED; i += THREADS) s.keys[i] = ~0ull;
    __syncthreads();
    for (int i = thread; i < row.vocab; i += THREADS) {
        const float logit = row.logits[i];
        const unsigned long long rank = rank_of(logit, i);
        if (rank > floor || bucket_of(logit, row.greatest, row.scale) != first_bucket) continue;
        if (shift < 64 && rank >> shift != prefix) continue;
        if (mass_of(logit, row.greatest, row.inverse) == 0) continue;
        s.keys[atomicAdd(&s.chosen, 1u)] = rank;
    }
    __syncthreads();
    for (int size = 2; size <= SORTED; size *= 2) {
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = thread; i < SORTED; i += THREADS) {
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
    for (unsigned i = thread; i < s.chosen; i += THREADS)
        s.masses[i] = mass_of(logit_of(s.keys[i]), row.greatest, row.inverse);
    __syncthreads();
    if (thread == 0) {
        s.floor = floor;
        unsigned long long mass = s.above_mass;
        unsigned tokens = s.above_count;
        for (unsigned i = 0; i < s.chosen; i++) {
            mass += s.masses[i];
            tokens++;
            if (reached(mass, tokens)) {
                s.floor = s.keys[i];
                break;
            }
        }
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
    double plain = 0, total = 0;
    for (int i = thread; i < vocab; i += THREADS) {
        plain += (double)mass_exp(__fsub_rn(row.logits[i], row.greatest));
        total += (double)mass_of(row.logits[i], row.greatest, inverse) / UNIT;
    }
    plain = block_sum(plain, s.room);
    total = block_sum(total, s.room);

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
        const auto kept = [&](int i, unsigned long long& mass) {
            mass = mass_of(row.logits[i], row.greatest, inverse);
            return mass > 0 && rank_of(row.logits[i], i) <= floor && (double)mass / UNIT >= min_p;
        };
        const auto sum_down_to_floor = [&]() {
            double sum = 0;
            for (int i = thread; i < vocab; i += THREADS) {
                const unsigned long long mass = mass_of(row.logits[i], row.greatest, inverse);
                if (rank_of(row.logits[i], i) <= floor) sum += (double)mass / UNIT;
            }
            return block_sum(sum, s.room);
        };
        if (top_k > 0 && top_k < vocab) {
            floor = last_kept(s, row, floor, true, (unsigned)top_k, 0);
            total = sum_down_to_floor();
        }
        if (top_p < 1.0) floor = last_kept(s, row, floor, false, 0, top_p * total);
        // Every warp sums a stretch of its own; the draw walks over the stretches, then through one.
        const int warp = thread / WARP, lane = thread % WARP, warps = THREADS / WARP;
        const int stretch = (vocab + warps - 1) / warps;
        const int begin = warp * stretch, end = min(begin + stretch, vocab);
        double mine = 0;
        unsigned long long mass;
        for (int i = begin + lane; i < end; i += WARP)
            if (kept(i, mass)) mine += (double)mass / UNIT;
        mine = warp_sum(mine);
        __syncthreads();
        if (lane == 0) s.room[warp] = mine;
        __syncthreads();
        double all = 0;
        for (int w = 0; w < warps; w++) all += s.room[w];
        const double target = uniform_of(draw.step, draw.sample, draw.tag[0], draw.tag[1], draw.key[0], draw.key[1]) * all;
        double below = 0;
        int at = 0, last_with_mass = 0;
        for (; at < warps; at++) {
            if (s.room[at] > 0) last_with_mass = at;
            if (below + s.room[at] > target) break;
            below += s.room[at];
        }
        // Nothing is above the target: the last token that is kept.
        const bool wants_last = at == warps;
        if (wants_last) at = last_with_mass;
        if (warp == at) {
            for (int start = begin; start < end; start += WARP) {
                const int i = start + lane;
                const bool is_kept = i < end && kept(i, mass);
                // The kept mass up to and with this lane.
                double sum = is_kept ? (double)mass / UNIT : 0;
                for (int step = 1; step < WARP; step *= 2) {
                    const double other = __shfl_up_sync(FULL_WARP, sum, step);
                    if (lane >= step) sum += other;
                }
                const unsigned hits = __ballot_sync(FULL_WARP, is_kept && (wants_last || below + sum > target));
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

extern "C" __global__ void __launch_bounds__(THREADS)
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
