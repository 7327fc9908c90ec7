// CUDA kernels on the processor, for tests without a GPU: every thread of a block is a fiber, blocks run one after another,
// all in the calling thread. Works for the subset of CUDA that model/src/gpu/cuda uses.
//
// A unit includes its kernels (which include this file) and then lists them once:
//
//     EMULATOR_TABLE(EMU_ENTRY(add_bf16), EMU_ENTRY(add_f32))
//
// which defines the C functions selfplay_emulate and selfplay_emulator_parameters, described at the end. One unit to a
// library: the state below belongs to the unit.
//
// It is stricter than a GPU, so that bugs that a GPU may hide show:
//  - Threads run in an order that changes from barrier to barrier (and is the same in every run, or another for another number in
//    the variable SELFPLAY_EMULATOR_SEED), so that a missing barrier is likely to give other numbers. Compiled with EMU_RACES,
//    it is seen in any order: races.h.
//  - Shared memory is NaN before every block. The dynamic one has guards on both sides, and what cp.async will write is NaN
//    until a wait guarantees it.
//  - A vector is read and written at a multiple of its size.
//  - Every warp collective needs all 32 lanes at one source line, every __syncthreads all threads of the block at one
//    source line; anything else prints what each thread waits at and aborts.
#pragma once

#if defined(__APPLE__) && !defined(_XOPEN_SOURCE)
#define _XOPEN_SOURCE 600  // For ucontext.
#define _DARWIN_C_SOURCE
#endif

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "races.h"

#if defined(__x86_64__) && defined(__ELF__)
#define EMU_ASSEMBLY 1
#else
#define EMU_ASSEMBLY 0
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
#define DYNAMIC_SHARED(name) unsigned char* const name = ::emu::shared_memory
#define STATIC_SHARED(type, name)                   \
    alignas(16) static ::emu::SharedType<type> name; \
    ::emu::know_shared(&name, sizeof name)

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_size())
#define gridDim (::emu::grid_size())
#define warpSize 32

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Where a collective is called: default arguments are evaluated at the call.
#define EMU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emu {

constexpr unsigned WARP_LANES = 32, ALL_LANES = 0xffffffffu, MOST_THREADS = 1024;
// Dynamic shared memory begins 128 bytes past a multiple of 1024: a kernel that needs more must see to it.
constexpr size_t STACK_BYTES = 256 << 10, GUARD_BYTES = 4096, SHARED_ALIGNMENT = 1024, SHARED_OFFSET = 128;
constexpr unsigned char GUARD_FILL = 0xa5, NAN_FILL = 0xff;

// What a thread waits at. `detail` tells instances of a template apart.
struct Place {
    const char* what = "";
    const char* file = "";
    int line = 0;
    int detail = 0;
};

inline bool operator==(const Place& a, const Place& b) {
    return a.line == b.line && a.detail == b.detail && (a.what == b.what || strcmp(a.what, b.what) == 0) &&
           (a.file == b.file || strcmp(a.file, b.file) == 0);
}

// ---- Switching between stacks.

#if EMU_ASSEMBLY
struct Context {
    void* stack_pointer = nullptr;
};

// Saves what a callee must keep on the stack that is left, and takes it from the one that is entered. A jump, as the
// processor would predict that a return goes back to the stack that is left.
asm(R"(
    .pushsection .text
    .p2align 4
    .type selfplay_emu_switch, @function
selfplay_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size selfplay_emu_switch, . - selfplay_emu_switch
    .popsection
)");
extern "C" __attribute__((visibility("hidden"))) void selfplay_emu_switch(void** leave, void* enter);

inline void switch_context(Context& leave, Context& enter) {
    selfplay_emu_switch(&leave.stack_pointer, enter.stack_pointer);
}

inline void prepare_context(Context& context, unsigned char*, unsigned char* top, void (*entry)()) {
    void** p = reinterpret_cast<void**>(top);
    *--p = nullptr;  // The entry's return address, never used; keeps the stack aligned as a call does.
    *--p = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--p = nullptr;
    context.stack_pointer = p;
}
#else
struct Context {
    ucontext_t context;
};

inline void switch_context(Context& leave, Context& enter) { swapcontext(&leave.context, &enter.context); }

inline void prepare_context(Context& context, unsigned char* bottom, unsigned char* top, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = bottom;
    context.context.uc_stack.ss_size = static_cast<size_t>(top - bottom);
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}
#endif

// ---- State of the launch that runs.

enum class State : unsigned char { Ready, WaitsForWarp, WaitsForBlock, WaitsForOther, Exited };

// A copy that cp.async has queued.
struct Copy {
    void* to;
    const void* from;  // Null for zeros.
    unsigned group;
};

struct Fiber {
    Context context;
    dim3 thread;
    State state = State::Exited;
    Place place;
    void* operand = nullptr;  // Of the collective that it waits at.
    std::vector<Copy> copies;
    size_t copied = 0;    // How many of `copies` are done.
    unsigned groups = 0;  // How many groups are committed.
};

struct Warp {
    unsigned lanes = 0, arrived = 0;
    bool mixed = false;  // Whether the arrived lanes wait at different places.
    Place place;
};

static Fiber* fibers = nullptr;  // MOST_THREADS.
static Fiber* current = nullptr;
static Warp warps[MOST_THREADS / WARP_LANES];
static Context scheduler;
static unsigned char* stacks = nullptr;
static unsigned char* shared_memory = nullptr;
static size_t shared_size = 0;
// Objects in static shared memory that threads of the launch have come to.
static std::vector<std::pair<void*, size_t>> shared_objects;
static unsigned threads = 0;
static dim3 block, block_dim, grid_dim;
static const char* kernel_name = "";
static void (*kernel_body)(void*) = nullptr;
static void* kernel_arguments = nullptr;
static uint64_t random_state = 0;

// What works beside the threads (hopper.h): `begin` before a block, `go_on` when no thread can run, which tells whether it has
// done anything, `end` after a block.
struct Units {
    void (*begin)() = [] {};
    bool (*go_on)() = [] { return false; };
    void (*end)() = [] {};
};
static Units units;

inline const dim3& thread_index() { return current->thread; }
inline const dim3& block_index() { return block; }
inline const dim3& block_size() { return block_dim; }
inline const dim3& grid_size() { return grid_dim; }
inline unsigned current_number() { return static_cast<unsigned>(current - fibers); }

// ---- Reports.

inline void print_head(const char* problem) {
    fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u) of (%u, %u, %u), %u threads: %s\n", kernel_name, block.x,
            block.y, block.z, grid_dim.x, grid_dim.y, grid_dim.z, threads, problem);
}

inline const char* base_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

inline bool same_wait(const Fiber& a, const Fiber& b) {
    return a.state == b.state && (a.state == State::Exited || a.state == State::Ready || a.place == b.place);
}

// One line for each kind of thread: what it waits at and which threads do.
[[noreturn]] inline void fail_stuck(const char* problem) {
    print_head(problem);
    std::vector<bool> told(threads, false);
    for (unsigned first = 0; first < threads; first++) {
        if (told[first]) continue;
        const Fiber& kind = fibers[first];
        std::vector<std::pair<unsigned, unsigned>> ranges;
        unsigned count = 0;
        for (unsigned t = first; t < threads; t++) {
            if (told[t] || !same_wait(fibers[t], kind)) continue;
            told[t] = true;
            count++;
            if (!ranges.empty() && ranges.back().second + 1 == t)
                ranges.back().second = t;
            else
                ranges.emplace_back(t, t);
        }
        if (kind.state == State::Exited)
            fprintf(stderr, "  %u exited:", count);
        else
            fprintf(stderr, "  %u wait at %s (%s:%d):", count, kind.place.what, base_name(kind.place.file),
                    kind.place.line);
        for (size_t r = 0; r < ranges.size() && r < 12; r++) {
            if (ranges[r].first == ranges[r].second)
                fprintf(stderr, " %u", ranges[r].first);
            else
                fprintf(stderr, " %u-%u", ranges[r].first, ranges[r].second);
        }
        fprintf(stderr, ranges.size() > 12 ? " ...\n" : "\n");
    }
    fflush(stderr);
    abort();
}

// For a mistake of the thread that runs.
[[noreturn]] inline void fail_thread(const Place& place, const char* problem, const void* address) {
    print_head(problem);
    fprintf(stderr, "  thread %u at %s (%s:%d), address %p, dynamic shared memory %p of %zu bytes\n", current_number(),
            place.what, base_name(place.file), place.line, address, static_cast<void*>(shared_memory), shared_size);
    fflush(stderr);
    abort();
}

#if EMU_RACES
[[noreturn]] inline void fail_race(const races::Race& race) {
    print_head("a race in shared memory");
    const unsigned char* at = static_cast<const unsigned char*>(race.address);
    const bool is_dynamic = at >= shared_memory && at < shared_memory + shared_size;
    const unsigned char* begin = shared_memory;
    for (const auto& object : shared_objects)
        if (at >= object.first && at < static_cast<unsigned char*>(object.first) + object.second)
            begin = static_cast<unsigned char*>(object.first);
    fprintf(stderr, "  thread %u %s byte %td of %s, which %s %u %s%s, and nothing orders the two\n", races::current,
            race.is_write ? "writes" : "reads", at - begin,
            is_dynamic ? "dynamic shared memory" : "an object in static shared memory",
            race.other < threads ? "thread" : "the copy of slot",
            race.other < threads ? race.other : race.other - threads, race.other_wrote ? "wrote" : "read",
            race.other_is_under_way ? " by a copy that it has not waited for" : "");
    for (const unsigned t : {races::current, race.other})
        if (t < threads)
            fprintf(stderr, "  thread %u has last waited at %s (%s:%d)\n", t, fibers[t].place.what,
                    base_name(fibers[t].place.file), fibers[t].place.line);
    fflush(stderr);
    abort();
}
#endif

// A whole V at p.
template <class V, class P>
inline V* vector_at(P* p, EMU_CALLER) {
    if (reinterpret_cast<uintptr_t>(p) % alignof(V)) fail_thread({"vector_at", file, line, 0}, "a vector is not aligned", p);
    return reinterpret_cast<V*>(p);
}

template <class T>
using SharedType = T;

// Called by every thread that comes to an object in static shared memory.
inline void know_shared(void* object, size_t size) {
    for (const auto& known : shared_objects)
        if (known.first == object) return;
    const races::Unwatched own;
    memset(object, NAN_FILL, size);
    shared_objects.emplace_back(object, size);
    races::watch(object, size);
}

// ---- Waiting.

inline void yield() { switch_context(current->context, scheduler); }

// Waits until all lanes of the warp are at `place`; the last one calls run(data of all lanes) for the others as well, so
// that a collective happens at one moment. `data` may be read and written by `run`.
template <class Data, class Run>
inline void collective(unsigned mask, const Place& place, Data& data, Run run) {
    if (mask != ALL_LANES) fail_thread(place, "only the full mask is emulated", nullptr);
    const unsigned number = current_number(), first = number / WARP_LANES * WARP_LANES;
    Warp& warp = warps[number / WARP_LANES];
    current->place = place;
    current->operand = &data;
    if (warp.arrived == 0) {
        warp.place = place;
        warp.mixed = false;
    } else if (!(warp.place == place)) {
        warp.mixed = true;
    }
    warp.arrived++;
    if (warp.arrived < WARP_LANES || warp.mixed) {
        current->state = State::WaitsForWarp;
        yield();
        return;
    }
    Data* lanes[WARP_LANES];
    for (unsigned l = 0; l < WARP_LANES; l++) {
        lanes[l] = static_cast<Data*>(fibers[first + l].operand);
        fibers[first + l].state = State::Ready;
    }
    warp.arrived = 0;
    const races::Unwatched own;
    run(lanes);
}

inline void wait_for_block(const Place& place) {
    current->place = place;
    current->state = State::WaitsForBlock;
    yield();
}

// ---- Scheduling.

// A number that changes from call to call and is the same in every run.
inline unsigned next_random() {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(random_state >> 33);
}

// f(0..n) in an order that changes from call to call: from some place on, around, upwards or downwards.
template <class F>
inline void in_some_order(unsigned n, F f) {
    const unsigned random = next_random(), step = random % 2 ? 1 : n - 1;
    unsigned at = random / 2 % n;
    for (unsigned i = 0; i < n; i++) {
        f(at);
        at += step;
        if (at >= n) at -= n;
    }
}

inline void fiber_main() {
    kernel_body(kernel_arguments);
    current->state = State::Exited;
    yield();
    abort();  // An exited fiber is never entered again.
}

// Whether any of the warp's threads ran.
inline bool run_warp(unsigned w) {
    Fiber* lanes = fibers + w * WARP_LANES;
    const unsigned n = warps[w].lanes;
    bool any = false;
    for (bool ran = true; ran;) {
        ran = false;
        in_some_order(n, [&](unsigned l) {
            if (lanes[l].state != State::Ready) return;
            ran = any = true;
            current = &lanes[l];
            races::current = w * WARP_LANES + l;
            races::is_watching = true;
            switch_context(scheduler, lanes[l].context);
            races::is_watching = false;
        });
    }
    return any;
}

// Releases the barrier of the block where all threads are at it; false where all have exited.
inline bool release_block() {
    unsigned waiting = 0, exited = 0;
    bool together = true;
    for (unsigned t = 0; t < threads; t++) {
        if (fibers[t].state == State::WaitsForOther) fail_stuck("threads wait for what nobody does any more");
        if (fibers[t].state == State::Exited) exited++;
        if (fibers[t].state != State::WaitsForBlock) continue;
        waiting++;
        together = together && fibers[t].place == fibers[0].place;
    }
    if (exited == threads) return false;
    if (waiting + exited < threads)
        fail_stuck("lanes of a warp diverge: a collective lacks lanes that wait elsewhere, exited or never were");
    if (exited) fail_stuck("threads exited while others wait at __syncthreads");
    if (!together) fail_stuck("threads wait at different __syncthreads");
    for (unsigned t = 0; t < threads; t++) fibers[t].state = State::Ready;
    races::meet(0, threads);
    return true;
}

inline void run_block() {
    memset(shared_memory, NAN_FILL, shared_size);
    for (const auto& object : shared_objects) memset(object.first, NAN_FILL, object.second);
    races::begin_block(threads);
    const unsigned warp_count = (threads + WARP_LANES - 1) / WARP_LANES;
    for (unsigned w = 0; w < warp_count; w++) {
        warps[w].lanes = w + 1 < warp_count ? WARP_LANES : threads - w * WARP_LANES;
        warps[w].arrived = 0;
    }
    for (unsigned t = 0; t < threads; t++) {
        Fiber& fiber = fibers[t];
        fiber.state = State::Ready;
        fiber.copies.clear();
        fiber.copied = 0;
        fiber.groups = 0;
        unsigned char* bottom = stacks + t * (STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
        // Stacks that begin at one place of their pages would share a few lines of the processor's cache.
        prepare_context(fiber.context, bottom, bottom + STACK_BYTES - t * 320 % 8192, fiber_main);
    }
    units.begin();
    do {
        bool ran;
        do {
            ran = false;
            in_some_order(warp_count, [&](unsigned w) { ran = run_warp(w) || ran; });
        } while (ran);
    } while (units.go_on() || release_block());
    units.end();
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        const bool below = shared_memory[-1 - static_cast<ptrdiff_t>(i)] != GUARD_FILL;
        if (below || shared_memory[shared_size + i] != GUARD_FILL) {
            print_head(below ? "wrote below its dynamic shared memory" : "wrote past its dynamic shared memory");
            fprintf(stderr, "  %zu bytes %s, of %zu bytes\n", i + below, below ? "below" : "past the end", shared_size);
            fflush(stderr);
            abort();
        }
    }
}

inline void make_room() {
    if (fibers) return;
    fibers = new Fiber[MOST_THREADS];
    const size_t bytes = MOST_THREADS * (STACK_BYTES + GUARD_BYTES);
    int flags = MAP_PRIVATE | MAP_ANON;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void* room = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (room == MAP_FAILED) {
        perror("emulator: no memory for stacks");
        abort();
    }
    stacks = static_cast<unsigned char*>(room);
    // A stack that overflows must not reach its neighbour.
    for (unsigned t = 0; t < MOST_THREADS; t++) mprotect(stacks + t * (STACK_BYTES + GUARD_BYTES), GUARD_BYTES, PROT_NONE);
}

// body(arguments) in every thread of every block, x fastest.
inline void run_grid(const char* name, dim3 grid, dim3 block_of, size_t shared_bytes, void (*body)(void*),
                     void* arguments) {
    make_room();
    kernel_name = name;
    kernel_body = body;
    kernel_arguments = arguments;
    grid_dim = grid;
    block_dim = block_of;
    threads = block_of.x * block_of.y * block_of.z;
    const char* seed = getenv("SELFPLAY_EMULATOR_SEED");
    random_state = seed ? strtoull(seed, nullptr, 10) : 1;
    for (unsigned t = 0; t < threads; t++)
        fibers[t].thread = dim3(t % block_of.x, t / block_of.x % block_of.y, t / (block_of.x * block_of.y));
    std::vector<unsigned char> room(shared_bytes + 2 * GUARD_BYTES + 2 * SHARED_ALIGNMENT, GUARD_FILL);
    const uintptr_t at = reinterpret_cast<uintptr_t>(room.data()) + GUARD_BYTES + SHARED_ALIGNMENT - 1;
    shared_memory = reinterpret_cast<unsigned char*>(at / SHARED_ALIGNMENT * SHARED_ALIGNMENT + SHARED_OFFSET);
    shared_size = shared_bytes;
    shared_objects.clear();
    races::forget_ranges();
    races::watch(shared_memory, shared_size);
#if EMU_RACES
    races::report = fail_race;
#endif
    for (block.z = 0; block.z < grid.z; block.z++)
        for (block.y = 0; block.y < grid.y; block.y++)
            for (block.x = 0; block.x < grid.x; block.x++) run_block();
    current = nullptr;
    shared_memory = nullptr;
    shared_size = 0;
}

template <class Kernel, class... A, size_t... I>
inline void emulate_unpacked(const char* name, void (*kernel)(A...), dim3 grid, dim3 block_of, size_t shared_bytes,
                             void** args, std::index_sequence<I...>) {
    (void)args;
    struct Call {
        void (*kernel)(A...);
        std::tuple<A...> values;
    } call = {kernel, std::tuple<A...>(*static_cast<A*>(args[I])...)};
    run_grid(
        name, grid, block_of, shared_bytes,
        [](void* p) {
            Call* call = static_cast<Call*>(p);
            std::apply(call->kernel, call->values);
        },
        &call);
}

// Launches `kernel`; args[i] points at a value of its i-th parameter's type.
template <class... A>
inline void emulate(void (*kernel)(A...), dim3 grid, dim3 block_of, size_t shared_bytes, void** args,
                    const char* name = "?") {
    emulate_unpacked<void>(name, kernel, grid, block_of, shared_bytes, args, std::index_sequence_for<A...>{});
}

// ---- The table of kernels.

// p a pointer, i a 4-byte integer, l an 8-byte integer, f a float, d a double, m a matrix as copies of tiles see it, ? anything
// else.
template <class T>
constexpr char kind_of() {
    if (std::is_class<T>::value && sizeof(T) == 128) return 'm';
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_integral<T>::value && sizeof(T) == 4) return 'i';
    if (std::is_integral<T>::value && sizeof(T) == 8) return 'l';
    if (std::is_same<T, float>::value) return 'f';
    if (std::is_same<T, double>::value) return 'd';
    return '?';
}

template <class... A>
struct Kinds {
    static constexpr char text[] = {kind_of<A>()..., '\0'};
};

template <class... A>
constexpr const char* kinds_of(void (*)(A...)) {
    return Kinds<A...>::text;
}

struct Entry {
    const char* name;
    const char* parameters;
    void (*launch)(const char* name, dim3 grid, dim3 block_of, size_t shared_bytes, void** args);
};

template <auto Kernel>
constexpr Entry entry(const char* name) {
    return {name, kinds_of(Kernel), [](const char* name, dim3 grid, dim3 block_of, size_t shared_bytes, void** args) {
                emulate(Kernel, grid, block_of, shared_bytes, args, name);
            }};
}

template <size_t N>
inline const Entry* find(const Entry (&table)[N], const char* name) {
    for (const Entry& entry : table)
        if (strcmp(entry.name, name) == 0) return &entry;
    return nullptr;
}

// What CUDA would refuse to launch.
inline bool is_launchable(const unsigned* grid, unsigned block_of) {
    return block_of >= 1 && block_of <= MOST_THREADS && grid[0] >= 1 && grid[0] <= 0x7fffffffu && grid[1] >= 1 &&
           grid[1] <= 65535 && grid[2] >= 1 && grid[2] <= 65535;
}

// ---- Shuffles.

template <class T>
struct Exchange {
    T value, result;
    unsigned from;
};

// Every lane gets the value of lane `from`.
template <class T>
inline T exchange(unsigned mask, const char* what, const char* file, int line, T value, unsigned from) {
    static_assert(kind_of<T>() != '?' && kind_of<T>() != 'p', "a type that shuffles do not take");
    Exchange<T> data = {value, value, from};
    collective(mask, Place{what, file, line, kind_of<T>()}, data, [](Exchange<T>** lanes) {
        for (unsigned l = 0; l < WARP_LANES; l++) lanes[l]->result = lanes[lanes[l]->from]->value;
    });
    return data.result;
}

inline unsigned lane() { return current_number() % WARP_LANES; }

// ---- Matrices of a warp.

struct MatrixRows {
    uint32_t (*registers)[4];
    const unsigned char* address;
};

template <bool TRANS>
inline void load_matrices(uint32_t (&r)[4], const void* p, const Place& place) {
    const unsigned char* address = static_cast<const unsigned char*>(p);
    if (reinterpret_cast<uintptr_t>(p) % 16) fail_thread(place, "the address is not a multiple of 16 bytes", p);
    if (address < shared_memory || address + 16 > shared_memory + shared_size)
        fail_thread(place, "the row is outside of the dynamic shared memory", p);
    MatrixRows data = {&r, address};
    collective(ALL_LANES, place, data, [](MatrixRows** lanes) {
        const unsigned first = current_number() / WARP_LANES * WARP_LANES;
        for (unsigned l = 0; l < WARP_LANES; l++) races::read(first + l, lanes[l]->address, 16);
        for (unsigned l = 0; l < WARP_LANES; l++)
            for (unsigned i = 0; i < 4; i++) {
                uint16_t pair[2];
                for (unsigned e = 0; e < 2; e++) {
                    const unsigned row = TRANS ? 2 * (l % 4) + e : l / 4, column = TRANS ? l / 4 : 2 * (l % 4) + e;
                    memcpy(&pair[e], lanes[8 * i + row]->address + 2 * column, 2);
                }
                (*lanes[l]->registers)[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
            }
    });
}

struct Product {
    float (*c)[4];
    const uint32_t (*a)[4];
    uint32_t b[2];
};

EMU_PLAIN inline float low_half(uint32_t pair) {
    const uint32_t bits = pair << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

EMU_PLAIN inline float high_half(uint32_t pair) { return low_half(pair >> 16); }

// Half a row of b or c, in a vector register.
typedef float Four __attribute__((vector_size(16)));

// a [16, 16], b [16, 8], c [16, 8] in the layouts of the PTX manual for mma.m16n8k16.
EMU_PLAIN inline void multiply(Product** lanes) {
    float a[16][16];
    alignas(16) float b[16][8], c[16][8];
    for (unsigned l = 0; l < WARP_LANES; l++) {
        const unsigned group = l / 4, pair = l % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = group + i % 2 * 8, column = pair + i / 2 * 8;
            a[row][column] = low_half((*lanes[l]->a)[i]);
            a[row][column + 1] = high_half((*lanes[l]->a)[i]);
            c[group + i / 2 * 8][pair + i % 2] = (*lanes[l]->c)[i];
        }
        for (unsigned i = 0; i < 2; i++) {
            b[pair + i * 8][group] = low_half(lanes[l]->b[i]);
            b[pair + i * 8 + 1][group] = high_half(lanes[l]->b[i]);
        }
    }
    for (unsigned m = 0; m < 16; m++)
        for (unsigned n = 0; n < 8; n += 4) {
            Four sum, row;
            memcpy(&sum, &c[m][n], sizeof sum);
            for (unsigned k = 0; k < 16; k++) {
                memcpy(&row, &b[k][n], sizeof row);
                sum += a[m][k] * row;
            }
            memcpy(&c[m][n], &sum, sizeof sum);
        }
    for (unsigned l = 0; l < WARP_LANES; l++)
        for (unsigned i = 0; i < 4; i++) (*lanes[l]->c)[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

// What a code of E4M3 means, by its definition: (1 + m / 8) · 2^(e − 7), without the leading one where e = 0.
EMU_PLAIN inline float e4m3_number(uint32_t code) {
    const int exponent = static_cast<int>(code >> 3 & 15), mantissa = static_cast<int>(code & 7);
    if (exponent == 15 && mantissa == 7) return NAN;
    const float size = exponent == 0 ? ldexpf(static_cast<float>(mantissa), -9) : ldexpf(static_cast<float>(8 + mantissa), exponent - 10);
    return code & 0x80 ? -size : size;
}

// a [16, 32], b [32, 8] of E4M3, c [16, 8] in the layouts of the PTX manual for mma.m16n8k32.
EMU_PLAIN inline void multiply_e4m3(Product** lanes) {
    float a[16][32], b[32][8], c[16][8];
    for (unsigned l = 0; l < WARP_LANES; l++) {
        const unsigned group = l / 4, four = l % 4 * 4;
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = group + i % 2 * 8, column = four + i / 2 * 16;
            for (unsigned e = 0; e < 4; e++) a[row][column + e] = e4m3_number((*lanes[l]->a)[i] >> 8 * e & 0xff);
            c[group + i / 2 * 8][l % 4 * 2 + i % 2] = (*lanes[l]->c)[i];
        }
        for (unsigned i = 0; i < 2; i++)
            for (unsigned e = 0; e < 4; e++) b[four + i * 16 + e][group] = e4m3_number(lanes[l]->b[i] >> 8 * e & 0xff);
    }
    for (unsigned m = 0; m < 16; m++)
        for (unsigned k = 0; k < 32; k++)
            for (unsigned n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (unsigned l = 0; l < WARP_LANES; l++)
        for (unsigned i = 0; i < 4; i++) (*lanes[l]->c)[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}

// ---- Asynchronous copies.

__attribute__((noinline)) inline void queue_copy(void* shared, const void* global, bool real, const Place& place) {
    if (reinterpret_cast<uintptr_t>(shared) % 16) fail_thread(place, "the target is not a multiple of 16 bytes", shared);
    if (reinterpret_cast<uintptr_t>(global) % 16) fail_thread(place, "the source is not a multiple of 16 bytes", global);
    // On a GPU the bytes may change from now on.
    const races::Unwatched own;
    races::begin_copy(shared, 16);
    memset(shared, NAN_FILL, 16);
    current->copies.push_back({shared, real ? global : nullptr, current->groups});
}

// Does the copies of all committed groups but the newest n.
__attribute__((noinline)) inline void finish_copies(unsigned n) {
    Fiber& fiber = *current;
    if (fiber.groups < n) return;
    const unsigned end = fiber.groups - n;
    const races::Unwatched own;
    for (; fiber.copied < fiber.copies.size() && fiber.copies[fiber.copied].group < end; fiber.copied++) {
        const Copy& copy = fiber.copies[fiber.copied];
        if (copy.from)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
        races::settle(copy.to, 16);
    }
    if (fiber.copied == fiber.copies.size()) {
        fiber.copies.clear();
        fiber.copied = 0;
    }
}

template <class T, class F>
inline T replace(T* address, F f) {
    const races::Unwatched own;
    races::change(address, sizeof *address);
    const T old = *address;
    *address = f(old);
    return old;
}

}  // namespace emu

using emu::SharedType;
using emu::vector_at;

// ---- Barriers and warp collectives.

inline void __syncthreads(EMU_CALLER) { emu::wait_for_block({"__syncthreads", file, line, 0}); }

inline void __syncwarp(unsigned mask = emu::ALL_LANES, EMU_CALLER) {
    int nothing = 0;
    emu::collective(mask, {"__syncwarp", file, line, 0}, nothing, [](int**) {
        emu::races::meet(emu::current_number() / emu::WARP_LANES * emu::WARP_LANES, emu::WARP_LANES);
    });
}

// `width` parts the warp into groups that do not see each other.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_CALLER) {
    const unsigned lane = emu::lane(), base = lane & ~(width - 1u);
    return emu::exchange(mask, "__shfl_sync", file, line, value, base | (source & (width - 1u)));
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_CALLER) {
    const unsigned lane = emu::lane(), from = (lane ^ lanes) % 32, end = (lane & ~(width - 1u)) + width;
    return emu::exchange(mask, "__shfl_xor_sync", file, line, value, from < end ? from : lane);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_CALLER) {
    const unsigned lane = emu::lane(), place = lane & (width - 1u);
    return emu::exchange(mask, "__shfl_up_sync", file, line, value, delta <= place ? lane - delta : lane);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_CALLER) {
    const unsigned lane = emu::lane(), place = lane & (width - 1u);
    return emu::exchange(mask, "__shfl_down_sync", file, line, value, delta < width - place ? lane + delta : lane);
}

namespace emu {
inline unsigned ballot(unsigned mask, bool predicate, const Place& place) {
    unsigned data = predicate;
    collective(mask, place, data, [](unsigned** lanes) {
        unsigned all = 0;
        for (unsigned l = 0; l < WARP_LANES; l++) all |= *lanes[l] << l;
        for (unsigned l = 0; l < WARP_LANES; l++) *lanes[l] = all;
    });
    return data;
}
}  // namespace emu

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_CALLER) {
    return emu::ballot(mask, predicate != 0, {"__ballot_sync", file, line, 0});
}

inline int __any_sync(unsigned mask, int predicate, EMU_CALLER) {
    return emu::ballot(mask, predicate != 0, {"__any_sync", file, line, 0}) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMU_CALLER) {
    return emu::ballot(mask, predicate != 0, {"__all_sync", file, line, 0}) == emu::ALL_LANES;
}

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lane l gives the address of row l % 8 of matrix l / 8 and gets in r[i] the
// elements (l / 4, 2 (l % 4)) and the next of matrix i.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* p, EMU_CALLER) {
    emu::load_matrices<false>(r, p, {"ldmatrix_x4", file, line, 0});
}

// The same of the transposed matrices.
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p, EMU_CALLER) {
    emu::load_matrices<true>(r, p, {"ldmatrix_x4_trans", file, line, 0});
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, c += a · b.
inline void mma_bf16_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_CALLER) {
    emu::Product data = {&c, &a, {b0, b1}};
    emu::collective(emu::ALL_LANES, {"mma_bf16_16x8x16", file, line, 0}, data, emu::multiply);
}

// mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32, c += a · b.
inline void mma_e4m3_16x8x32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_CALLER) {
    emu::Product data = {&c, &a, {b0, b1}};
    emu::collective(emu::ALL_LANES, {"mma_e4m3_16x8x32", file, line, 0}, data, emu::multiply_e4m3);
}

inline void cp_async_16_zero(void* shared, const void* global, bool real, EMU_CALLER) {
    emu::queue_copy(shared, global, real, {"cp_async_16_zero", file, line, 0});
}

inline void cp_async_16(void* shared, const void* global, EMU_CALLER) {
    emu::queue_copy(shared, global, true, {"cp_async_16", file, line, 0});
}

inline void cp_async_commit() { emu::current->groups++; }

template <int N>
inline void cp_async_wait() {
    emu::finish_copies(N);
}

// ---- Numbers.

struct bf16 {
    uint16_t bits;
};

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

inline float bf16_to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

// To nearest, ties to even; NaN stays NaN.
inline bf16 float_to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

// fma.rn.bf16x2 with −0: the products of both halves.
inline uint32_t times_bf16_pair(uint32_t a, uint32_t b) {
    const uint32_t low = float_to_bf16(emu::low_half(a) * emu::low_half(b)).bits;
    return low | static_cast<uint32_t>(float_to_bf16(emu::high_half(a) * emu::high_half(b)).bits) << 16;
}

// Macros: some C libraries declare functions of these names and do not define them.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
#define __fdividef(x, y) ((x) / (y))

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
inline T __ldg(const T* p) {
    return *p;
}

#define EMU_MIN_MAX(T)                               \
    inline T min(T a, T b) { return b < a ? b : a; } \
    inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
inline unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
inline unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Rounded to nearest, never fused (-ffp-contract=off).
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline long long __float2ll_rn(float x) { return llrintf(x); }

// Threads only change places at barriers, so that plain reads and writes are atomic.
template <class T>
inline T atomicAdd(T* p, T x) {
    return emu::replace(p, [&](T old) { return static_cast<T>(old + x); });
}
template <class T>
inline T atomicMax(T* p, T x) {
    return emu::replace(p, [&](T old) { return old < x ? x : old; });
}
template <class T>
inline T atomicMin(T* p, T x) {
    return emu::replace(p, [&](T old) { return x < old ? x : old; });
}
template <class T>
inline T atomicExch(T* p, T x) {
    return emu::replace(p, [&](T) { return x; });
}
template <class T>
inline T atomicCAS(T* p, T expected, T x) {
    return emu::replace(p, [&](T old) { return old == expected ? x : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- What the library gives.

#define EMU_ENTRY(name) ::emu::entry<&name>(#name)
#define EMU_EXPORT extern "C" __attribute__((visibility("default"), used))

// selfplay_emulate: launches a kernel by its name; args[i] points at a value of its i-th parameter's type. 0 when it has
// run, 1 for an unknown name, 2 for a grid or block that CUDA refuses. Not for several threads at once.
//
// selfplay_emulator_parameters: a letter for each parameter (see emu::kind_of), null for an unknown name.
#define EMULATOR_TABLE(...)                                                                                    \
    static const ::emu::Entry emulator_table[] = {__VA_ARGS__};                                                \
    EMU_EXPORT int selfplay_emulate(const char* name, const unsigned* grid, unsigned block, unsigned shared,   \
                                    void** args) {                                                             \
        const ::emu::Entry* entry = ::emu::find(emulator_table, name);                                         \
        if (!entry) return 1;                                                                                  \
        if (!::emu::is_launchable(grid, block)) return 2;                                                      \
        entry->launch(entry->name, dim3(grid[0], grid[1], grid[2]), dim3(block), shared, args);                \
        return 0;                                                                                              \
    }                                                                                                          \
    EMU_EXPORT const char* selfplay_emulator_parameters(const char* name) {                                    \
        const ::emu::Entry* entry = ::emu::find(emulator_table, name);                                         \
        return entry ? entry->parameters : nullptr;                                                            \
    }
