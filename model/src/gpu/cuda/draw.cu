// One token from a row of logits, the very one that sampler/src/pick/sampling.rs picks: temperature → top-k → top-p → min-p, then
// the inverse of the cumulative distribution in the order of ids, by one counter-based number. Masses are summed where they are
// computed anyway: a row is read twice, and once or twice more for each filter.
#include "draw.cuh"

// One token to be drawn, with the rule that it is drawn by: the words of `RowDraw` in ops/draw.rs.
struct Draw {
    uint32_t row, step, sample, tag[2], key[2];
    // The first k tokens; 0: all.
    int top_k;
    // 0: the greatest logit. Distances from it are multiplied with `inverse`.
    float temperature, inverse;
    double top_p, min_p;
};

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
    const int round = STRETCHES * THREADS, stretch = (vocab + round - 1) / round * THREADS;
    RowOfLogits row = {logits + (int64_t)draw.row * vocab, vocab, stretch, -INFINITY, inverse, 0};

    float greatest = -INFINITY, broken = 0;
    for_each_token<8>(row.logits, 0, vocab, [&](int, float x) {
        if (x != x) broken = 1;
        greatest = fmaxf(greatest, x);
    });
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
    const bool by_count = top_k > 0 && top_k < vocab, is_filtered = by_count || top_p < 1.0;
    double plain = 0;

    int chosen = -1;
    if (temperature == 0) {
        int best = vocab;
        for_each_token<4>(row.logits, 0, vocab, [&](int i, float logit) {
            plain += (double)mass_exp(__fsub_rn(logit, row.greatest));
            if (logit == row.greatest) best = min(best, i);
        });
        // Ids are below 2²⁴ or not: an f64 holds them all.
        double least = best;
        for (int step = WARP / 2; step > 0; step /= 2) least = fmin(least, __shfl_xor_sync(FULL_WARP, least, step));
        __syncthreads();
        if (thread % WARP == 0) s.room[thread / WARP] = least;
        __syncthreads();
        for (int w = 0; w < THREADS / WARP; w++) least = fmin(least, s.room[w]);
        chosen = (int)least;
        plain = block_sum(plain, s.room);
    } else {
        const unsigned long long least = (unsigned long long)ceil(min_p * UNIT);
        if (is_filtered) {
            clear(s.buckets);
            __syncthreads();
        }
        // Of all tokens where a filter is to come, else of those that are kept.
        const unsigned long long least_summed = is_filtered ? 0 : least;
        const auto counted = [&](float logit, float weight) -> unsigned long long {
            const unsigned long long mass = mass_of_weight(weight);
            if (is_filtered && mass > 0) count_token(s.buckets, bucket_of(logit, row.greatest, row.scale), mass, by_count);
            return mass >= least_summed ? mass : 0;
        };
        if (inverse == 1.0f) {
            // One exponential is both.
            sum_stretches(s, row, [&](int, float logit) {
                const float weight = mass_exp(__fsub_rn(logit, row.greatest));
                plain += (double)weight;
                return counted(logit, weight);
            });
        } else {
            sum_stretches(s, row, [&](int, float logit) {
                const float distance = __fsub_rn(logit, row.greatest);
                plain += (double)mass_exp(distance);
                return counted(logit, mass_exp(__fmul_rn(distance, inverse)));
            });
        }
        plain = block_sum(plain, s.room);
        Kept kept = {~0ull, !is_filtered};
        const auto kept_mass = [&](int i, float logit, unsigned long long from) -> unsigned long long {
            if (rank_of(logit, i) > kept.floor) return 0;
            const unsigned long long mass = row.mass(logit);
            return mass >= from ? mass : 0;
        };
        double total = by_count ? 0 : mass_of_stretches(s);
        if (by_count) {
            // The second filter goes by the mass of all that the first one leaves.
            const unsigned long long from = top_p < 1.0 ? 0 : least;
            kept = last_kept(s, row, kept.floor, {true, (unsigned)top_k, 0}, from, true);
            if (!kept.is_summed) sum_stretches(s, row, [&](int i, float logit) { return kept_mass(i, logit, from); });
            kept.is_summed = true;
            total = mass_of_stretches(s);
        }
        if (top_p < 1.0) {
            kept = last_kept(s, row, kept.floor, {false, 0, top_p * total}, least, !by_count);
            if (!kept.is_summed) sum_stretches(s, row, [&](int i, float logit) { return kept_mass(i, logit, least); });
        }
        // The stretch that holds the draw; then every warp sums a part of it, and one warp walks through the part that holds the draw.
        const int warp = thread / WARP, lane = thread % WARP, warps = THREADS / WARP;
        static_assert(STRETCHES == THREADS / WARP, "as many stretches as parts of a stretch");
        int begin = 0, end = vocab, size = row.stretch;
        double below = 0, target = 0;
        // Nothing is above the target: the last token that is kept.
        bool wants_last = false;
        for (int level = 0; level < 2; level++) {
            __syncthreads();
            if (level == 0) {
                if (thread < STRETCHES) s.room[thread] = stretch_mass(s, thread);
            } else {
                size = (end - begin + warps - 1) / warps;
                const int first = min(begin + warp * size, end), last = min(first + size, end);
                unsigned long long mine = 0;
                for (int i = first + lane; i < last; i += WARP) mine += kept_mass(i, row.logits[i], least);
                const double sum = warp_sum((double)mine / UNIT);
                if (lane == 0) s.room[warp] = sum;
            }
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
            begin = min(begin + at * size, end);
            end = min(begin + size, end);
        }
        if (warp == 0) {
            for (int start = begin; start < end; start += WARP) {
                const int i = start + lane;
                const unsigned long long mass = i < end ? kept_mass(i, row.logits[i], least) : 0;
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
