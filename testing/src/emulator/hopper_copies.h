// Copies between device and shared memory that run beside the threads, for hopper.h.
#pragma once
#include "hopper_products.h"

// What `cuTensorMapEncodeTiled` is told: a row-major matrix of bf16, and a box of 64 columns.
struct TensorMap {
    const unsigned char* first;
    int64_t rows, columns;
    int64_t row_bytes;
    int64_t box_rows;
    int64_t unused[11];
};
static_assert(sizeof(TensorMap) == 128, "as large as CUDA's");

namespace emu {

// ---- Copies of tiles.

struct TileCopy {
    TensorMap map;
    unsigned char* tile;
    Barrier* barrier;
    int row, column;
    Place place;
    unsigned slot;
};
static std::vector<TileCopy> tile_copies;

__attribute__((noinline)) inline void start_copy(const TileCopy& copy) {
    const races::Unwatched own;
    const size_t bytes = static_cast<size_t>(copy.map.box_rows) * TILE_ROW_BYTES;
    if ((copy.tile - shared_window()) % 1024) fail_thread(copy.place, "the tile is not at a multiple of 1024 bytes", copy.tile);
    if (!is_shared(copy.tile, bytes)) fail_thread(copy.place, "the tile is outside of the dynamic shared memory", copy.tile);
    if (reinterpret_cast<uintptr_t>(copy.map.first) % 16 || copy.map.row_bytes % 16 || copy.map.box_rows < 1 ||
        copy.map.box_rows > 256)
        fail_thread(copy.place, "CUDA makes no such map", copy.map.first);
    barrier_state(copy.barrier, copy.place);
    const size_t first = static_cast<size_t>(copy.tile - shared_window());
    if (is_read(first, first + bytes))
        fail_thread(copy.place, "the copy overwrites what a product has not read yet", copy.tile);
    for (const TileCopy& other : tile_copies)
        if (copy.tile < other.tile + other.map.box_rows * TILE_ROW_BYTES && other.tile < copy.tile + bytes)
            fail_thread(copy.place, "two copies to one place are under way", copy.tile);
    races::change(copy.barrier, sizeof *copy.barrier);
    memset(copy.tile, NAN_FILL, bytes);
    tile_copies.push_back(copy);
    tile_copies.back().slot = races::begin_tile(copy.tile, bytes);
}

inline void finish_copy(const TileCopy& copy) {
    for (int64_t r = 0; r < copy.map.box_rows; r++)
        for (int64_t c = 0; c < 64; c++) {
            const int64_t row = copy.row + r, column = copy.column + c;
            const bool real = row >= 0 && row < copy.map.rows && column >= 0 && column < copy.map.columns;
            uint16_t bits = 0;
            if (real) memcpy(&bits, copy.map.first + row * copy.map.row_bytes + 2 * column, sizeof bits);
            const size_t address = static_cast<size_t>(copy.tile - shared_window() + r * TILE_ROW_BYTES + 2 * c);
            memcpy(shared_window() + swizzled(address), &bits, sizeof bits);
        }
    races::end_tile(copy.slot, copy.barrier);
    BarrierState state = barrier_state(copy.barrier, copy.place);
    state.bytes -= static_cast<int32_t>(copy.map.box_rows * TILE_ROW_BYTES);
    set_barrier(copy.barrier, state);
}

// ---- Copies to device memory.

// A copy that a thread has started: its bytes are read at the wait for reading, and written at the wait for all.
struct BulkCopy {
    unsigned thread;
    float* to;
    const float* from;
    size_t count;
    bool adds, is_committed, is_read;
    std::vector<float> numbers;
};
static std::vector<BulkCopy> bulk_copies;

__attribute__((noinline)) inline void start_bulk(float* to, const float* from, int bytes, bool adds, const Place& place) {
    const size_t count = static_cast<size_t>(bytes) / 4, address = static_cast<size_t>(
        reinterpret_cast<const unsigned char*>(from) - shared_window());
    if (bytes < 16 || bytes % 16 || reinterpret_cast<uintptr_t>(to) % 16 || address % 16)
        fail_thread(place, "not in pieces of 16 bytes", to);
    if (!is_shared(from, static_cast<size_t>(bytes))) fail_thread(place, "the source is not in shared memory", from);
    if (is_unfenced(address, address + static_cast<size_t>(bytes)))
        fail_thread(place, "no fence shows these bytes to the copy", from);
    const races::Unwatched own;
    races::read(current_number(), from, static_cast<size_t>(bytes));
    bulk_copies.push_back({current_number(), to, from, count, adds, false, false, {}});
}

inline void read_bulk(BulkCopy& copy) {
    if (copy.is_read) return;
    const races::Unwatched own;
    races::read(copy.thread, copy.from, copy.count * sizeof(float));
    copy.numbers.assign(copy.from, copy.from + copy.count);
    copy.is_read = true;
}

// What this thread's committed copies have read; and where `all`, their effect.
__attribute__((noinline)) inline void finish_bulk(bool all) {
    for (size_t i = 0; i < bulk_copies.size();) {
        BulkCopy& copy = bulk_copies[i];
        if (copy.thread != current_number() || !copy.is_committed) {
            i++;
            continue;
        }
        read_bulk(copy);
        if (!all) {
            i++;
            continue;
        }
        for (size_t n = 0; n < copy.count; n++) copy.to[n] = copy.adds ? copy.to[n] + copy.numbers[n] : copy.numbers[n];
        bulk_copies.erase(bulk_copies.begin() + static_cast<ptrdiff_t>(i));
    }
}

}  // namespace emu
