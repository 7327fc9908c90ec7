// Hopper's asynchronous units for the emulator: what model/src/gpu/cuda/hopper.cuh says in PTX, in C++.
//
// Everything asynchronous happens as late as it may, and what it is going to change is spoiled at once:
//  - A copy of a tile makes its target NaN when it starts. The bytes arrive, and are counted by the barrier, when no thread can run
//    without them; of several copies, in an order that changes.
//  - A thread that arrives at a barrier goes on when no other can. A barrier that was initialised and not made known aborts.
//  - A product reads its operands, and changes its sums, when its warp waits for it, not before. What the kernel overwrites too
//    early is read as overwritten, what it reads too early is the value before.
//  - A copy or a store into a tile that an unfinished product reads, a product of bytes that no fence has shown to it, registers of
//    A that change under way, sums that are used before the wait, lanes that disagree, and what is under way when a block ends,
//    abort.
#pragma once
#include "hopper_copies.h"

#define HAS_HOPPER 1
#define TENSOR_MAP TensorMap

namespace emu {

// ---- What the scheduler asks.

inline void begin_units() {
    for (WarpGroup& group : groups) group = WarpGroup();
    for (NamedBarrier& barrier : named_barriers) barrier = NamedBarrier();
    for (ProductQueue& queue : queues) queue = ProductQueue();
    tile_copies.clear();
    bulk_copies.clear();
    unready.clear();
    unfenced.assign((shared_size + SHARED_OFFSET) / 4 + 1, false);
    for (std::vector<size_t>& words : written) words.clear();
}

inline bool go_on_with_copies() {
    bool any = false;
    for (unsigned t = 0; t < threads; t++) {
        if (fibers[t].state != State::WaitsForOther || fibers[t].operand != &others_first) continue;
        fibers[t].state = State::Ready;
        any = true;
    }
    if (any) return true;
    if (tile_copies.empty()) return false;
    const size_t which = next_random() % tile_copies.size();
    const TileCopy copy = tile_copies[which];
    tile_copies.erase(tile_copies.begin() + static_cast<ptrdiff_t>(which));
    finish_copy(copy);
    return true;
}

inline void end_units() {
    const char* problem = nullptr;
    for (const ProductQueue& queue : queues)
        if (!queue.products.empty()) problem = "the block ended before its products";
    for (const NamedBarrier& barrier : named_barriers)
        if (barrier.arrived) problem = "the block ended with arrivals at a barrier that nobody completed";
    if (!bulk_copies.empty()) problem = "the block ended before its copies to device memory";
    int registers = 0;
    for (const WarpGroup& group : groups) registers += group.registers * static_cast<int>(GROUP_LANES);
    if (registers > 65536) problem = "the warp groups have asked for more registers than there are";
    if (!problem) return;
    print_head(problem);
    fflush(stderr);
    abort();
}

static const bool has_units = [] {
    units = {begin_units, go_on_with_copies, end_units};
    return true;
}();

__attribute__((noinline)) inline void set_registers(int registers, const Place& place) {
    if (registers < 24 || registers > 256 || registers % 8) fail_thread(place, "no such number of registers", nullptr);
    int nothing = 0;
    group_collective(place, nothing,
                     [&](int**) { groups[current_number() / GROUP_LANES].registers = registers; });
}

}  // namespace emu

// ---- What kernels call: see hopper.cuh.

inline uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emu::shared_window());
}

inline unsigned char* first_tile(unsigned char* dynamic) {
    return dynamic + (SWIZZLE_BYTES - shared_address(dynamic) % SWIZZLE_BYTES) % SWIZZLE_BYTES;
}

inline void barrier_init(Barrier* barrier, int arrivals, EMU_CALLER) {
    const emu::Place place = {"barrier_init", file, line, 0};
    if (arrivals < 1 || arrivals > 0x7fff) emu::fail_thread(place, "no such number of arrivals", barrier);
    *barrier = 0;
    emu::barrier_state(barrier, place);
    emu::unready.push_back({barrier, emu::current_number()});
    const unsigned count = static_cast<unsigned>(arrivals);
    *barrier = static_cast<uint64_t>(count) << 16 | static_cast<uint64_t>(count) << 1;
}

inline void barriers_ready() {
    const unsigned thread = emu::current_number();
    const auto is_own = [&](const emu::UnreadyBarrier& one) { return one.thread == thread; };
    emu::unready.erase(std::remove_if(emu::unready.begin(), emu::unready.end(), is_own), emu::unready.end());
}

inline void barrier_expect(Barrier* barrier, int bytes, EMU_CALLER) {
    emu::arrive(barrier, bytes, false, {"barrier_expect", file, line, 0});
}

inline void barrier_arrive(Barrier* barrier, EMU_CALLER) {
    emu::arrive(barrier, 0, true, {"barrier_arrive", file, line, 0});
}

inline void barrier_wait(Barrier* barrier, int parity, EMU_CALLER) {
    emu::wait_for_phase(barrier, parity != 0, {"barrier_wait", file, line, 0});
}

inline void copy_tile(void* tile, const TensorMap* map, Barrier* barrier, int row, int column, EMU_CALLER) {
    emu::start_copy({*map, static_cast<unsigned char*>(tile), barrier, row, column, {"copy_tile", file, line, 0}, 0});
}

inline void prefetch_map(const TensorMap*) {}

inline float fast_exp2(float x) { return exp2f(x); }

inline void store_for_products(void* at, uint32_t pair, EMU_CALLER) {
    const emu::Place place = {"store_for_products", file, line, 0};
    if (!emu::is_shared(at, 4) || reinterpret_cast<uintptr_t>(at) % 4) emu::fail_thread(place, "not in shared memory", at);
    const size_t address = shared_address(at);
    if (emu::is_read(address, address + 4)) emu::fail_thread(place, "a product has not read this yet", at);
    memcpy(at, &pair, sizeof pair);
    emu::write_unfenced(at, sizeof pair);
}

inline void store_for_copies(float* at, const float (&four)[4], EMU_CALLER) {
    const emu::Place place = {"store_for_copies", file, line, 0};
    if (!emu::is_shared(at, 16) || shared_address(at) % 16) emu::fail_thread(place, "not in shared memory", at);
    for (const emu::BulkCopy& copy : emu::bulk_copies)
        if (!copy.is_read && at < copy.from + copy.count && copy.from < at + 4)
            emu::fail_thread(place, "a copy has not read this yet", at);
    memcpy(at, four, sizeof four);
    emu::write_unfenced(at, sizeof four);
}

inline void bulk_store(float* global, const float* shared, int bytes, EMU_CALLER) {
    emu::start_bulk(global, shared, bytes, false, {"bulk_store", file, line, 0});
}
inline void bulk_add(float* global, const float* shared, int bytes, EMU_CALLER) {
    emu::start_bulk(global, shared, bytes, true, {"bulk_add", file, line, 0});
}
inline void bulk_commit() {
    for (emu::BulkCopy& copy : emu::bulk_copies)
        if (copy.thread == emu::current_number()) copy.is_committed = true;
}
inline void bulk_wait_read() { emu::finish_bulk(false); }
inline void bulk_wait() { emu::finish_bulk(true); }

// Blocks run one after the other: what has not been published by an earlier one never will be.
inline void wait_for_count(const int* count, int value, EMU_CALLER) {
    if (*count < value)
        emu::fail_thread({"wait_for_count", file, line, 0}, "it waits for a block that has not begun", count);
}
inline void publish_count(int* count, int value, EMU_CALLER) {
    for (const emu::BulkCopy& copy : emu::bulk_copies)
        if (copy.thread == emu::current_number())
            emu::fail_thread({"publish_count", file, line, 0}, "a copy to device memory is not done", count);
    *count = value;
}

inline void fence_async() {
    std::vector<size_t>& words = emu::written[emu::current_number()];
    for (const size_t word : words) emu::unfenced[word] = false;
    words.clear();
}

inline void group_sync(int number, int threads, EMU_CALLER) {
    emu::named_barrier(number, threads, true, {"group_sync", file, line, number});
}
inline void group_arrive(int number, int threads, EMU_CALLER) {
    emu::named_barrier(number, threads, false, {"group_arrive", file, line, number});
}

template <int REGISTERS>
inline void take_registers(EMU_CALLER) {
    emu::set_registers(REGISTERS, {"take_registers", file, line, 0});
}
template <int REGISTERS>
inline void give_registers(EMU_CALLER) {
    emu::set_registers(REGISTERS, {"give_registers", file, line, 0});
}

inline void wgmma_fence(EMU_CALLER) {
    int nothing = 0;
    emu::collective(emu::ALL_LANES, {"wgmma_fence", file, line, 0}, nothing,
                    [](int**) { emu::queues[emu::current_number() / emu::WARP_LANES].is_fenced = true; });
}

inline void wgmma_commit(EMU_CALLER) {
    int nothing = 0;
    emu::collective(emu::ALL_LANES, {"wgmma_commit", file, line, 0}, nothing,
                    [](int**) { emu::queues[emu::current_number() / emu::WARP_LANES].committed++; });
}

template <int N>
inline void wgmma_wait(EMU_CALLER) {
    emu::finish_products(N, {"wgmma_wait", file, line, N});
}

template <int N>
inline void wgmma_settled(float (&d)[N][4], EMU_CALLER) {
    for (const emu::PendingProduct& product : emu::queues[emu::current_number() / emu::WARP_LANES].products)
        if (product.sums[emu::lane()] == d)
            emu::fail_thread({"wgmma_settled", file, line, 0}, "the product is still under way", nullptr);
}

template <class T, int N>
inline void wgmma_ready(T (&)[N][4]) {}

template <int N, int TRANSPOSED_A, int TRANSPOSED_B>
inline void wgmma(float (&d)[N / 8][4], uint64_t a, uint64_t b, int accumulate, EMU_CALLER) {
    emu::Issue issue = {d, nullptr, a, b, accumulate};
    emu::issue<N, TRANSPOSED_A != 0, TRANSPOSED_B != 0>(issue, {"wgmma", file, line, N});
}

template <int N, int TRANSPOSED_B>
inline void wgmma_from_registers(float (&d)[N / 8][4], const uint32_t (&a)[4], uint64_t b, int accumulate, EMU_CALLER) {
    emu::Issue issue = {d, &a, 0, b, accumulate};
    emu::issue<N, false, TRANSPOSED_B != 0>(issue, {"wgmma_from_registers", file, line, N});
}
