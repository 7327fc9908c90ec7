// Whether accesses to shared memory are ordered: for the emulator, in units that are compiled with EMU_RACES and the compiler's
// instrumentation of every access (-fsanitize=thread, whose library is not linked: its functions are defined at the end).
//
// Two accesses to a byte by different threads, one of them a write, must be ordered by what the PTX manual says orders memory
// (chapter 8): __syncthreads, __syncwarp, barriers by number, arrivals at and waits for barriers in shared memory, copies that were
// waited for. Shuffles, votes, products and matrix loads of a warp order nothing. In whatever order the emulator happens to run
// threads, a pair that nothing orders is found (FastTrack: Flanagan and Freund, PLDI 2009): each thread has a clock for every other
// one, what it knows of it; each byte the moment of its last write and of the reads since.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unordered_map>
#include <vector>

#ifndef EMU_RACES
#define EMU_RACES 0
#endif

// A function that is not instrumented: one of the emulator's own that does much. What it calls should be such as well.
#if EMU_RACES
#define EMU_PLAIN __attribute__((no_sanitize("thread")))
#else
#define EMU_PLAIN
#endif

namespace emu {
namespace races {

// Who accesses: a thread of the block, or one of the copies that run beside them.
typedef unsigned Actor;

#if EMU_RACES

constexpr Actor COPIES = 32, MOST_ACTORS = 1024 + COPIES;
constexpr unsigned CLOCK_BITS = 20, NEVER = (1u << CLOCK_BITS) - 1;

// A moment of an actor: its number, and its clock, which rises when others may have learnt of what it did. 0: none. With the clock
// NEVER it is known to nobody, the actor included.
typedef uint32_t Moment;
inline Moment moment_of(Actor actor, unsigned clock) { return actor << CLOCK_BITS | clock; }
inline Actor actor_of(Moment moment) { return moment >> CLOCK_BITS; }
inline unsigned clock_of(Moment moment) { return moment & NEVER; }

typedef std::vector<unsigned> Clocks;

struct Byte {
    Moment write, read;
    bool is_atomic;       // The last write.
    unsigned more_reads;  // A place in `reads`, where several actors have read; 0: none.
};

// Shared memory that is watched.
struct Range {
    const unsigned char *first, *end;
    Byte* bytes;
};
constexpr unsigned MOST_RANGES = 8;

// What arrivals at a barrier have made known, and what those of its last whole phase did.
struct Arrivals {
    Clocks now, last;
};

struct Race {
    const void* address;
    Actor other;
    bool is_write, other_wrote, other_is_under_way;
};

static Actor current = 0, actors = 0;
static bool is_watching = false;
static unsigned* known = nullptr;  // [actors, actors]: the clocks that each knows of.
static Range ranges[MOST_RANGES];
static unsigned range_count = 0;
static std::vector<unsigned> reads, free_reads;  // [·, actors], and the places that are free.
static std::unordered_map<const void*, Arrivals> barriers;
static unsigned copy_clocks[COPIES], next_copy = 0;
// Ends the process.
static void (*report)(const Race&) = nullptr;

// While one lives, accesses are the emulator's own.
struct Unwatched {
    bool was = is_watching;
    Unwatched() { is_watching = false; }
    ~Unwatched() { is_watching = was; }
};

EMU_PLAIN inline unsigned& clock_known(Actor to, Actor of) { return known[static_cast<size_t>(to) * actors + of]; }

inline void begin_block(unsigned threads) {
    if (!known) known = new unsigned[MOST_ACTORS * MOST_ACTORS];
    actors = threads + COPIES;
    memset(known, 0, sizeof(unsigned) * actors * actors);
    for (Actor actor = 0; actor < actors; actor++) clock_known(actor, actor) = 1;
    for (unsigned r = 0; r < range_count; r++)
        memset(static_cast<void*>(ranges[r].bytes), 0, sizeof(Byte) * static_cast<size_t>(ranges[r].end - ranges[r].first));
    // Place 0 is none.
    reads.assign(actors, 0);
    free_reads.clear();
    barriers.clear();
    memset(copy_clocks, 0, sizeof copy_clocks);
}

inline void forget_ranges() {
    for (unsigned r = 0; r < range_count; r++) delete[] ranges[r].bytes;
    range_count = 0;
}
inline void watch(const void* first, size_t size) {
    if (range_count == MOST_RANGES) abort();
    const unsigned char* at = static_cast<const unsigned char*>(first);
    ranges[range_count++] = {at, at + size, new Byte[size]()};
}

EMU_PLAIN inline bool is_known(Moment moment, Actor to) {
    if (moment == 0) return true;
    if (clock_of(moment) == NEVER) return false;
    return actor_of(moment) == to || clock_known(to, actor_of(moment)) >= clock_of(moment);
}

EMU_PLAIN inline Byte* byte_at(const void* address) {
    const unsigned char* at = static_cast<const unsigned char*>(address);
    for (unsigned r = 0; r < range_count; r++)
        if (at >= ranges[r].first && at < ranges[r].end) return ranges[r].bytes + (at - ranges[r].first);
    return nullptr;
}

EMU_PLAIN inline void check(Moment other, bool other_wrote, Actor actor, bool is_write, const void* address) {
    if (is_known(other, actor)) return;
    report({address, actor_of(other), is_write, other_wrote, clock_of(other) == NEVER});
}

// The clocks of all actors at their last reads of a byte; 0: none since its last write.
EMU_PLAIN inline unsigned* clocks_of_reads(unsigned place) { return &reads[static_cast<size_t>(place) * actors]; }

EMU_PLAIN inline void remember_read(Byte& byte, Actor actor, unsigned clock) {
    if (byte.more_reads == 0) {
        if (is_known(byte.read, actor)) {
            byte.read = moment_of(actor, clock);
            return;
        }
        if (free_reads.empty()) {
            byte.more_reads = static_cast<unsigned>(reads.size() / actors);
            reads.resize(reads.size() + actors);
        } else {
            byte.more_reads = free_reads.back();
            free_reads.pop_back();
        }
        memset(clocks_of_reads(byte.more_reads), 0, sizeof(unsigned) * actors);
        clocks_of_reads(byte.more_reads)[actor_of(byte.read)] = clock_of(byte.read);
    }
    clocks_of_reads(byte.more_reads)[actor] = clock;
}

EMU_PLAIN inline void check_reads(Byte& byte, Actor actor, const void* address) {
    if (byte.more_reads == 0) return check(byte.read, false, actor, true, address);
    const unsigned* clocks = clocks_of_reads(byte.more_reads);
    for (Actor other = 0; other < actors; other++)
        if (clocks[other]) check(moment_of(other, clocks[other]), false, actor, true, address);
    free_reads.push_back(byte.more_reads);
}

enum class Access { Read, Write, Atomic };

// `clock`: that of the actor, or NEVER where it is under way. Of two bytes that are accessed together the first stands for both.
EMU_PLAIN inline void access(Actor actor, const void* address, size_t size, Access how, unsigned clock) {
    Byte* byte = byte_at(address);
    if (!byte) return;
    const unsigned char* at = static_cast<const unsigned char*>(address);
    const size_t step = size % 2 ? 1 : 2;
    for (size_t i = 0; i < size; i += step) {
        Byte& b = byte[i];
        if (how == Access::Read) {
            if (b.more_reads == 0 && b.read == moment_of(actor, clock)) continue;
            check(b.write, true, actor, false, at + i);
            remember_read(b, actor, clock);
            continue;
        }
        if (!(how == Access::Atomic && b.is_atomic)) check(b.write, true, actor, true, at + i);
        check_reads(b, actor, at + i);
        b = {moment_of(actor, clock), 0, how == Access::Atomic, 0};
        if (step == 2) byte[i + 1] = b;
    }
}

EMU_PLAIN inline void read(Actor actor, const void* address, size_t size) {
    access(actor, address, size, Access::Read, clock_known(actor, actor));
}
EMU_PLAIN inline void write(Actor actor, const void* address, size_t size) {
    access(actor, address, size, Access::Write, clock_known(actor, actor));
}
// Such do not race with each other.
inline void change(const void* address, size_t size) { access(current, address, size, Access::Atomic, clock_known(current, current)); }

EMU_PLAIN inline void raise(unsigned* clocks, const unsigned* to) {
    for (Actor i = 0; i < actors; i++) clocks[i] = clocks[i] < to[i] ? to[i] : clocks[i];
}

inline void join(Clocks& into, const unsigned* from) {
    into.resize(actors, 0);
    raise(into.data(), from);
}

// A copy that the current thread begins, whose bytes it knows of when it has waited for the copy: `settle`.
inline void begin_copy(const void* address, size_t size) { access(current, address, size, Access::Write, NEVER); }
inline void settle(const void* address, size_t size) {
    Byte* byte = byte_at(address);
    for (size_t i = 0; byte && i < size; i++) byte[i] = {moment_of(current, clock_known(current, current)), 0, false, 0};
}

// What the actor did is made known to whoever learns of `clocks`.
inline void release(Actor actor, Clocks& clocks) {
    join(clocks, &clock_known(actor, 0));
    clock_known(actor, actor)++;
}
inline void acquire(Actor actor, const Clocks& clocks) {
    if (!clocks.empty()) raise(&clock_known(actor, 0), clocks.data());
}

// Each of these threads learns of what all of them did.
inline void meet(Actor first, unsigned count) {
    Clocks all;
    for (Actor actor = first; actor < first + count; actor++) release(actor, all);
    for (Actor actor = first; actor < first + count; actor++) acquire(actor, all);
}

// A barrier in shared memory: arrivals, the end of a phase, the return of a wait for one.
inline void arrive(const void* barrier) { release(current, barriers[barrier].now); }
inline void end_phase(const void* barrier) {
    Arrivals& arrivals = barriers[barrier];
    if (!arrivals.now.empty()) join(arrivals.last, arrivals.now.data());
    arrivals.now.clear();
}
inline void pass(const void* barrier) { acquire(current, barriers[barrier].last); }

// A copy beside the threads, begun by the current one and counted by a barrier; its number.
inline unsigned begin_tile(const void* address, size_t size) {
    const unsigned slot = next_copy++ % COPIES, clock = ++copy_clocks[slot];
    write(current, address, size);
    Byte* byte = byte_at(address);
    for (size_t i = 0; byte && i < size; i++) byte[i] = {moment_of(actors - COPIES + slot, clock), 0, false, 0};
    return slot;
}
inline void end_tile(unsigned slot, const void* barrier) {
    Clocks& now = barriers[barrier].now;
    now.resize(actors, 0);
    now[actors - COPIES + slot] = copy_clocks[slot];
}

#else

struct Clocks {};
struct Unwatched {
    Unwatched() {}
};
static Actor current = 0;
static bool is_watching = false;
inline void begin_block(unsigned) {}
inline void forget_ranges() {}
inline void watch(const void*, size_t) {}
inline void read(Actor, const void*, size_t) {}
inline void write(Actor, const void*, size_t) {}
inline void change(const void*, size_t) {}
inline void begin_copy(const void*, size_t) {}
inline void settle(const void*, size_t) {}
inline void release(Actor, Clocks&) {}
inline void acquire(Actor, const Clocks&) {}
inline void meet(Actor, unsigned) {}
inline void arrive(const void*) {}
inline void end_phase(const void*) {}
inline void pass(const void*) {}
inline unsigned begin_tile(const void*, size_t) { return 0; }
inline void end_tile(unsigned, const void*) {}

#endif

}  // namespace races
}  // namespace emu

#if EMU_RACES

// What the compiler calls before each access that it has instrumented.
#define EMU_HOOK(name, ...) \
    extern "C" __attribute__((no_sanitize("thread"), visibility("hidden"), used, noinline)) void name(__VA_ARGS__)

namespace emu {
namespace races {
EMU_PLAIN inline void on_access(void* p, size_t bytes, bool is_write) {
    if (!is_watching || !byte_at(p)) return;
    is_watching = false;
    if (is_write)
        write(current, p, bytes);
    else
        read(current, p, bytes);
    is_watching = true;
}
}  // namespace races
}  // namespace emu

#define EMU_ACCESS_HOOKS(bytes)                                                                      \
    EMU_HOOK(__tsan_read##bytes, void* p) { emu::races::on_access(p, bytes, false); }                \
    EMU_HOOK(__tsan_write##bytes, void* p) { emu::races::on_access(p, bytes, true); }                \
    EMU_HOOK(__tsan_unaligned_read##bytes, void* p) { emu::races::on_access(p, bytes, false); }      \
    EMU_HOOK(__tsan_unaligned_write##bytes, void* p) { emu::races::on_access(p, bytes, true); }
EMU_ACCESS_HOOKS(1)
EMU_ACCESS_HOOKS(2)
EMU_ACCESS_HOOKS(4)
EMU_ACCESS_HOOKS(8)
EMU_ACCESS_HOOKS(16)
EMU_HOOK(__tsan_read_range, void* p, size_t bytes) { emu::races::on_access(p, bytes, false); }
EMU_HOOK(__tsan_write_range, void* p, size_t bytes) { emu::races::on_access(p, bytes, true); }
EMU_HOOK(__tsan_vptr_update, void**, void*) {}
EMU_HOOK(__tsan_vptr_read, void**) {}
EMU_HOOK(__tsan_func_entry, void*) {}
EMU_HOOK(__tsan_func_exit, ) {}
EMU_HOOK(__tsan_init, ) {}

#endif
