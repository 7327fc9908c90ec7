// Warp groups and barriers, for hopper.h.
#pragma once
#include "emulator.h"

typedef uint64_t Barrier;

namespace emu {

constexpr unsigned GROUP_LANES = 128, MOST_GROUPS = MOST_THREADS / GROUP_LANES, NAMED_BARRIERS = 16;
constexpr unsigned char TILE_ROW_BYTES = 128;

// ---- Addresses of shared memory: 18 bits, from the multiple of 1024 below its start.

EMU_PLAIN inline unsigned char* shared_window() { return shared_memory - SHARED_OFFSET; }

inline bool is_shared(const void* p, size_t bytes) {
    const unsigned char* at = static_cast<const unsigned char*>(p);
    return at >= shared_memory && at + bytes <= shared_memory + shared_size;
}

// The place that the hardware takes for an address within a swizzled tile: bits 4 to 6 exchanged by bits 7 to 9.
EMU_PLAIN inline size_t swizzled(size_t address) { return address ^ ((address >> 7 & 7) << 4); }

// ---- Collectives of a warp group.

struct WarpGroup {
    unsigned arrived = 0;
    bool mixed = false;
    Place place;
    int registers = 0;  // What setmaxnreg has set.
};
static WarpGroup groups[MOST_GROUPS];

template <class Data, class Run>
inline void group_collective(const Place& place, Data& data, Run run) {
    const unsigned number = current_number() / GROUP_LANES, first = number * GROUP_LANES;
    if (first + GROUP_LANES > threads) fail_thread(place, "the block has no whole warp group here", nullptr);
    WarpGroup& group = groups[number];
    current->place = place;
    current->operand = &data;
    if (group.arrived == 0) {
        group.place = place;
        group.mixed = false;
    } else if (!(group.place == place)) {
        group.mixed = true;
    }
    group.arrived++;
    if (group.arrived < GROUP_LANES || group.mixed) {
        current->state = State::WaitsForOther;
        yield();
        return;
    }
    Data* lanes[GROUP_LANES];
    for (unsigned l = 0; l < GROUP_LANES; l++) {
        lanes[l] = static_cast<Data*>(fibers[first + l].operand);
        fibers[first + l].state = State::Ready;
    }
    group.arrived = 0;
    const races::Unwatched own;
    run(lanes);
}

// ---- Barriers in shared memory: parity, expected and pending arrivals, bytes under way.

struct BarrierState {
    bool parity;
    unsigned expected, pending;
    int32_t bytes;
};

// Barriers that a thread has initialised and not made known (`barriers_ready`).
struct UnreadyBarrier {
    const Barrier* barrier;
    unsigned thread;
};
static std::vector<UnreadyBarrier> unready;

inline BarrierState barrier_state(const Barrier* barrier, const Place& place) {
    for (const UnreadyBarrier& one : unready)
        if (one.barrier == barrier) fail_thread(place, "the barrier was not made known", barrier);
    if (!is_shared(barrier, sizeof *barrier) || reinterpret_cast<uintptr_t>(barrier) % 8)
        fail_thread(place, "no barrier can be here", barrier);
    const uint64_t bits = *barrier;
    // Shared memory that nobody has written has all bits set.
    if (bits >> 31 & 1) fail_thread(place, "the barrier was not initialised", barrier);
    return {(bits & 1) != 0, static_cast<unsigned>(bits >> 1 & 0x7fff), static_cast<unsigned>(bits >> 16 & 0x7fff),
            static_cast<int32_t>(bits >> 32)};
}

// Writes it back; where nothing is pending any more the next phase begins, and those who wait look again.
inline void set_barrier(Barrier* barrier, BarrierState state) {
    if (state.pending == 0 && state.bytes == 0) {
        state.parity = !state.parity;
        state.pending = state.expected;
        races::end_phase(barrier);
        for (unsigned t = 0; t < threads; t++)
            if (fibers[t].state == State::WaitsForOther && fibers[t].operand == barrier) fibers[t].state = State::Ready;
    }
    *barrier = static_cast<uint64_t>(static_cast<uint32_t>(state.bytes)) << 32 | static_cast<uint64_t>(state.pending) << 16 |
               static_cast<uint64_t>(state.expected) << 1 | state.parity;
}

// What threads wait for that let all others go on first.
static char others_first;

__attribute__((noinline)) inline void arrive(Barrier* barrier, int bytes, bool lets_others, const Place& place) {
    {
        const races::Unwatched own;
        BarrierState state = barrier_state(barrier, place);
        if (state.pending == 0) fail_thread(place, "more arrivals than the barrier expects", barrier);
        races::change(barrier, sizeof *barrier);
        races::arrive(barrier);
        state.bytes += bytes;
        state.pending--;
        set_barrier(barrier, state);
    }
    if (!lets_others) return;
    // Whoever has waited for this does all it can before this thread does anything more.
    current->place = place;
    current->operand = &others_first;
    current->state = State::WaitsForOther;
    yield();
}

__attribute__((noinline)) inline bool is_in_phase(const Barrier* barrier, bool parity, const Place& place) {
    const races::Unwatched own;
    races::change(barrier, sizeof *barrier);
    return barrier_state(barrier, place).parity == parity;
}

__attribute__((noinline)) inline void wait_for_phase(Barrier* barrier, bool parity, const Place& place) {
    while (is_in_phase(barrier, parity, place)) {
        current->place = place;
        current->operand = barrier;
        current->state = State::WaitsForOther;
        yield();
    }
    const races::Unwatched own;
    races::pass(barrier);
}

// ---- Barriers by number.

struct NamedBarrier {
    unsigned arrived = 0, expected = 0;
    std::vector<Fiber*> waiting;
    races::Clocks known;
};
static NamedBarrier named_barriers[NAMED_BARRIERS];

__attribute__((noinline)) inline void named_barrier(int number, int count, bool waits, const Place& place) {
    if (number < 1 || number >= static_cast<int>(NAMED_BARRIERS) || count % WARP_LANES)
        fail_thread(place, "no such barrier", nullptr);
    NamedBarrier& barrier = named_barriers[number];
    if (barrier.arrived == 0) barrier.expected = static_cast<unsigned>(count);
    if (barrier.expected != static_cast<unsigned>(count)) fail_thread(place, "threads disagree on their number", nullptr);
    barrier.arrived++;
    races::release(current_number(), barrier.known);
    if (barrier.arrived == barrier.expected) {
        if (waits) barrier.waiting.push_back(current);
        for (Fiber* fiber : barrier.waiting) {
            fiber->state = State::Ready;
            races::acquire(static_cast<unsigned>(fiber - fibers), barrier.known);
        }
        barrier.waiting.clear();
        barrier.arrived = 0;
        barrier.known = races::Clocks();
        return;
    }
    if (!waits) return;
    barrier.waiting.push_back(current);
    current->place = place;
    current->operand = &barrier;
    current->state = State::WaitsForOther;
    yield();
}

}  // namespace emu
