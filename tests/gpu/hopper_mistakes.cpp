// A product of two tiles by Hopper's units as hopper.cuh has them, right, and with one mistake each: the emulator must see all of
// them. The first argument says which. Prints "right" or "wrong" where the emulator lets it run to its end.
#include "hopper.cuh"

enum Mistake {
    NONE,
    NO_WAIT_FOR_BYTES,
    OPERAND_A_ROW_TOO_LATE,
    STRIDE_OF_ANOTHER_SWIZZLE,
    NOT_SWIZZLED,
    ROOM_GIVEN_BACK_TOO_EARLY,
    NO_FENCE_OF_PRODUCTS,
    NO_FENCE_OF_WRITERS,
    SUMS_USED_TOO_EARLY,
    SUMS_NAMED_TOO_EARLY,
    OPERAND_CHANGED_UNDER_WAY,
    A_WARP_STAYS_AWAY,
    BARRIER_NOT_INITIALISED,
    BYTES_MISCOUNTED,
    ENDS_BEFORE_ITS_PRODUCTS,
    UNALIGNED_TILE,
    PARITY_OF_THE_NEXT_PHASE,
    NAMED_BARRIER_OF_OTHER_SIZE,
    ENDS_BEFORE_ITS_COPIES,
    ROOM_OF_A_COPY_WRITTEN,
    COUNT_NEVER_PUBLISHED,
    BARRIER_NOT_MADE_KNOWN,
    UNALIGNED_VECTOR,
    STATIC_ROOM_NOT_WRITTEN,
    MISTAKES
};

// out [64, 64] = a · bᵀ of two [64, 64], twice through one room: the second pair doubles the numbers of b.
extern "C" __global__ void product_of_tiles(float* out, float* copied, int* count, TENSOR_MAP a, TENSOR_MAP b, int mistake) {
    constexpr int TILE = tile_bytes(64, 64);
    DYNAMIC_SHARED(dynamic);
    unsigned char* left = mistake == UNALIGNED_TILE ? dynamic : first_tile(dynamic);
    unsigned char* right = left + TILE;
    unsigned char* written = right + TILE;
    float* room = reinterpret_cast<float*>(written + TILE);
    Barrier* full = reinterpret_cast<Barrier*>(room + 64);
    Barrier* empty = full + 1;
    if (threadIdx.x == 0 && mistake != BARRIER_NOT_INITIALISED) {
        barrier_init(full, 1);
        barrier_init(empty, 4);
        if (mistake != BARRIER_NOT_MADE_KNOWN) barriers_ready();
    }
    __syncthreads();
    if (threadIdx.x >= WARP_GROUP) {
        if (threadIdx.x == WARP_GROUP) {
            for (int use = 0; use < 2; use++) {
                barrier_wait(empty, use % 2 ^ 1);
                barrier_expect(full, 2 * TILE + (mistake == BYTES_MISCOUNTED ? 16 : 0));
                copy_tile(left, &a, full, 0, 0);
                copy_tile(right, &b, full, use * 64, 0);
            }
        }
        return;
    }
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float sums[8][4] = {};
    uint32_t from_a[4][4];
    for (int use = 0; use < 2; use++) {
        if (mistake != NO_WAIT_FOR_BYTES) barrier_wait(full, use % 2 ^ (mistake == PARITY_OF_THE_NEXT_PHASE));
        if (mistake != NO_FENCE_OF_PRODUCTS) wgmma_fence();
        for (int k = 0; k < 64; k += 16) {
            uint64_t x = along_rows(left, 64, 0, k), y = along_rows(right, 64, 0, k);
            if (mistake == OPERAND_A_ROW_TOO_LATE) x += SWIZZLED_ROW_BYTES >> 4;
            if (mistake == STRIDE_OF_ANOTHER_SWIZZLE) y = operand_descriptor(right + k * 2, 16, 512);
            if (mistake == NOT_SWIZZLED) y &= ~(3ull << 62);
            if (mistake == A_WARP_STAYS_AWAY && warp == 2) continue;
            wgmma<64, 0, 0>(sums, x, y, use > 0 || k > 0);
        }
        wgmma_commit();
        if (mistake == ROOM_GIVEN_BACK_TOO_EARLY && lane == 0) barrier_arrive(empty);
        if (mistake == SUMS_NAMED_TOO_EARLY) wgmma_settled(sums);
        if (mistake == SUMS_USED_TOO_EARLY) sums[0][0] += 1;
        wgmma_wait<0>();
        if (mistake != ROOM_GIVEN_BACK_TOO_EARLY && lane == 0) barrier_arrive(empty);
        wgmma_settled(sums);
    }
    // The sums once more, through shared memory and registers: out += P · 0 for what threads have written there.
    for (int k = 0; k < 64; k += 16)
        for (int e = 0; e < 4; e++) {
            from_a[k / 16][e] = pack_bf16(1, 1);
            store_for_products(swizzled_place(written, 64, warp * 16 + lane / 4 + e % 2 * 8, k + lane % 4 * 2 + e / 2 * 8), 0);
        }
    if (mistake != NO_FENCE_OF_WRITERS) fence_async();
    group_sync(1, mistake == NAMED_BARRIER_OF_OTHER_SIZE && warp == 1 ? 256 : 128);
    wgmma_ready(from_a);
    wgmma_fence();
    for (int k = 0; k < 64; k += 16) wgmma_from_registers<64, 1>(sums, from_a[k / 16], across_rows(written, 64, 0, k), 1);
    wgmma_commit();
    if (mistake == OPERAND_CHANGED_UNDER_WAY) from_a[0][0] = pack_bf16(2, 2);
    if (mistake == ENDS_BEFORE_ITS_PRODUCTS) return;
    wgmma_wait<0>();
    wgmma_settled(sums);
    for (int i = 0; i < 8; i++)
        for (int e = 0; e < 4; e++)
            out[(warp * 16 + lane / 4 + e / 2 * 8) * 64 + i * 8 + lane % 4 * 2 + e % 2] = sums[i][e];
    STATIC_SHARED(float[WARP_GROUP], zeros);
    if (mistake != STATIC_ROOM_NOT_WRITTEN) zeros[threadIdx.x] = 0;
    if (threadIdx.x == 0) out[0] += zeros[0];
    if (mistake == UNALIGNED_VECTOR) store_vec(out + 1, load_vec(out + 1));
    // Four numbers to device memory, added to the same four.
    if (threadIdx.x == 0) {
        const float four[4] = {1, 2, 3, 4}, others[4] = {};
        store_for_copies(room, four);
        fence_async();
        bulk_store(copied, room, 16);
        bulk_commit();
        bulk_wait();
        bulk_add(copied, room, 16);
        bulk_commit();
        if (mistake == ROOM_OF_A_COPY_WRITTEN) store_for_copies(room, others);
        bulk_wait_read();
        if (mistake == ENDS_BEFORE_ITS_COPIES) return;
        bulk_wait();
        publish_count(count, mistake == COUNT_NEVER_PUBLISHED ? 0 : 1);
        wait_for_count(count, 1);
    }
}

EMULATOR_TABLE(EMU_ENTRY(product_of_tiles))

int main(int arguments, char** argument) {
    int mistake = arguments > 1 ? atoi(argument[1]) : 0;
    if (mistake >= MISTAKES) return 77;
    std::vector<bf16> a(64 * 64), b(128 * 64);
    for (int i = 0; i < 64 * 64; i++) {
        a[i] = float_to_bf16(static_cast<float>((i * 7 + i / 64 * 3) % 11) - 5);
        b[i] = float_to_bf16(static_cast<float>((i * 5 + i / 64) % 13) - 6);
        b[64 * 64 + i] = float_to_bf16(2 * bf16_to_float(b[i]));
    }
    std::vector<float> out(64 * 64, NAN);
    alignas(16) float copied[4] = {NAN, NAN, NAN, NAN};
    int count = 0;
    const auto map = [](const std::vector<bf16>& matrix) {
        TensorMap map = {};
        map.first = reinterpret_cast<const unsigned char*>(matrix.data());
        map.rows = static_cast<int64_t>(matrix.size() / 64);
        map.columns = 64;
        map.row_bytes = 128;
        map.box_rows = 64;
        return map;
    };
    TensorMap a_map = map(a), b_map = map(b);
    float* out_at = out.data();
    float* copied_at = copied;
    int* count_at = &count;
    void* values[] = {&out_at, &copied_at, &count_at, &a_map, &b_map, &mistake};
    const unsigned grid[3] = {1, 1, 1};
    selfplay_emulate("product_of_tiles", grid, 2 * WARP_GROUP, 1024 + 3 * tile_bytes(64, 64) + 256 + 16, values);
    bool right = copied[0] == 2 && copied[3] == 8;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            float sum = 0;
            for (int k = 0; k < 64; k++) sum += 3 * bf16_to_float(a[i * 64 + k]) * bf16_to_float(b[j * 64 + k]);
            right = right && out[i * 64 + j] == sum;
        }
    puts(right ? "right" : "wrong");
    return 0;
}
