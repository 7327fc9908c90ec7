// Exchanges between threads by all that orders shared memory, right, and with one mistake each, which results need not show: the
// emulator must see all of them. The first argument says which. Prints "right" or "wrong" where the emulator lets it run to its end.
#include "hopper.cuh"

enum Mistake {
    NONE,
    NO_BARRIER_BEFORE_READING,
    NO_BARRIER_BEFORE_WRITING_AGAIN,
    A_SHUFFLE_FOR_A_WARPS_BARRIER,
    COPIES_OF_OTHERS_NOT_WAITED_FOR,
    A_MATRIX_OF_ANOTHER_WARP,
    ONE_LANE_GIVES_BACK_FOR_ALL,
    NO_WAIT_FOR_THE_PHASE,
    READS_AFTER_ARRIVING_ALONE,
    ROOM_NOT_WAITED_FOR,
    COUNTED_WITHOUT_ATOMICS,
    MISTAKES
};

// Two warps and a third that brings numbers; sums [96] gets a sum by each thread.
extern "C" __global__ void exchange(float* sums, const float* numbers, int mistake) {
    STATIC_SHARED(float[96], room);
    STATIC_SHARED(int, count);
    DYNAMIC_SHARED(dynamic);
    float* tile = reinterpret_cast<float*>(dynamic);        // [96]
    bf16* matrix = reinterpret_cast<bf16*>(dynamic + 512);  // [2, 32, 8], a warp's rows each
    float* ring = reinterpret_cast<float*>(dynamic + 2048);  // [2, 32]
    Barrier* full = reinterpret_cast<Barrier*>(dynamic + 2304);
    Barrier* empty = full + 2;
    const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    if (thread == 0) {
        count = 0;
        for (int i = 0; i < 2; i++) {
            barrier_init(full + i, WARP);
            barrier_init(empty + i, 2);
        }
        barriers_ready();
    }
    float sum = 0;
    // __syncthreads, in static shared memory, twice.
    for (int turn = 0; turn < 2; turn++) {
        if (turn == 0 || mistake != NO_BARRIER_BEFORE_WRITING_AGAIN) __syncthreads();
        room[thread] = numbers[thread];
        if (mistake != NO_BARRIER_BEFORE_READING) __syncthreads();
        sum += room[(thread + 32) % 96];
    }
    // __syncwarp.
    __syncthreads();
    tile[thread] = numbers[thread];
    if (mistake == A_SHUFFLE_FOR_A_WARPS_BARRIER)
        sum += 0 * __shfl_xor_sync(FULL_WARP, sum, 1);
    else
        __syncwarp();
    sum += tile[thread ^ 1];
    // Copies that every thread has waited for by itself.
    __syncthreads();
    if (thread < 24) cp_async_16_zero(tile + thread * 4, numbers + thread * 4, true);
    cp_async_commit();
    cp_async_wait<0>();
    if (mistake != COPIES_OF_OTHERS_NOT_WAITED_FOR) __syncthreads();
    sum += tile[95 - thread];
    // A matrix for each warp's own eyes.
    if (warp < 2) {
        for (int c = 0; c < 8; c++) matrix[thread * 8 + c] = float_to_bf16(1);
        __syncwarp();
        uint32_t four[4];
        const int other = mistake == A_MATRIX_OF_ANOTHER_WARP ? 1 - warp : warp;
        ldmatrix_x4(four, matrix + (other * 32 + lane) * 8);
        sum += four[0] == four[3] ? 1.0f : 0.0f;
    }
    // A count by all.
    if (mistake == COUNTED_WITHOUT_ATOMICS)
        count = count + 1;
    else
        atomicAdd(&count, 1);
    // A ring of two places: the third warp fills them, the others read.
    if (warp == 2) {
        for (int use = 0; use < 5; use++) {
            if (mistake != ROOM_NOT_WAITED_FOR) barrier_wait(empty + use % 2, use / 2 % 2 ^ 1);
            ring[use % 2 * 32 + lane] = numbers[lane] * use;
            barrier_arrive(full + use % 2);
        }
    } else {
        for (int use = 0; use < 5; use++) {
            if (mistake != NO_WAIT_FOR_THE_PHASE) barrier_wait(full + use % 2, use / 2 % 2);
            sum += ring[use % 2 * 32 + (lane + 1) % 32];
            if (mistake != ONE_LANE_GIVES_BACK_FOR_ALL) __syncwarp();
            if (lane == 0) barrier_arrive(empty + use % 2);
        }
        // The second warp's numbers for the first, by a barrier at which the second does not wait.
        if (warp == 1) {
            tile[32 + lane] = numbers[lane];
            group_arrive(1, 64);
            if (mistake == READS_AFTER_ARRIVING_ALONE) sum += 0 * tile[lane];
        } else {
            if (mistake == READS_AFTER_ARRIVING_ALONE) tile[lane] = 1;
            group_sync(1, 64);
            sum += tile[63 - lane];
        }
    }
    __syncthreads();
    sums[thread] = sum + count;
}

EMULATOR_TABLE(EMU_ENTRY(exchange))

int main(int arguments, char** argument) {
    int mistake = arguments > 1 ? atoi(argument[1]) : 0;
    if (mistake >= MISTAKES) return 77;
    alignas(16) float numbers[96], sums[96];
    for (int i = 0; i < 96; i++) numbers[i] = static_cast<float>(i % 7);
    float* sums_at = sums;
    const float* numbers_at = numbers;
    void* values[] = {&sums_at, &numbers_at, &mistake};
    const unsigned grid[3] = {2, 1, 1};
    selfplay_emulate("exchange", grid, 96, 2304 + 4 * 8, values);
    bool right = true;
    for (int t = 0; t < 96; t++) {
        float sum = 2 * numbers[(t + 32) % 96] + numbers[t ^ 1] + numbers[95 - t] + 96;
        if (t < 64) sum += 1 + 10 * numbers[(t + 1) % 32];
        if (t < 32) sum += numbers[31 - t];
        right = right && sums[t] == sum;
    }
    puts(right ? "right" : "wrong");
    return 0;
}
