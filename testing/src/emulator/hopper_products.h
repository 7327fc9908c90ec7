// Products of a warp group, for hopper.h: issued, committed, and done when their warp waits for them.
#pragma once
#include "hopper_barriers.h"

namespace emu {

// A product that a warp has issued and not waited for.
struct PendingProduct {
    unsigned group, warp_of_group;
    int n;
    bool from_registers, transposed_a, transposed_b, accumulate;
    uint64_t a, b;
    float (*sums[WARP_LANES])[4];
    const uint32_t (*registers[WARP_LANES])[4];
    uint32_t values[WARP_LANES][4];
    Place place;
};

struct ProductQueue {
    std::vector<PendingProduct> products;
    unsigned committed = 0;  // Groups.
    bool is_fenced = false;
};
static ProductQueue queues[MOST_THREADS / WARP_LANES];

// Four bytes of shared memory each: whether a thread has written them for products or copies and not fenced since; and which these
// are, by thread.
static std::vector<bool> unfenced;
static std::vector<size_t> written[MOST_THREADS];

inline void write_unfenced(const void* at, size_t bytes) {
    const size_t address = static_cast<size_t>(static_cast<const unsigned char*>(at) - shared_window());
    for (size_t word = address / 4; word < (address + bytes) / 4; word++) {
        unfenced[word] = true;
        written[current_number()].push_back(word);
    }
}

inline bool is_unfenced(size_t first, size_t end) {
    for (const std::vector<size_t>& words : written)
        for (const size_t word : words)
            if (word >= first / 4 && word < end / 4 && unfenced[word]) return true;
    return false;
}

EMU_PLAIN inline size_t descriptor_start(uint64_t descriptor) { return (descriptor & 0x3fff) << 4; }
EMU_PLAIN inline size_t descriptor_leading(uint64_t descriptor) { return (descriptor >> 16 & 0x3fff) << 4; }
EMU_PLAIN inline size_t descriptor_stride(uint64_t descriptor) { return (descriptor >> 32 & 0x3fff) << 4; }

// The address of element (`side`, `k`) of an operand, before the exchange: `side` counts rows of A or columns of B.
EMU_PLAIN inline size_t element_address(uint64_t descriptor, bool transposed, unsigned side, unsigned k) {
    const size_t start = descriptor_start(descriptor), stride = descriptor_stride(descriptor);
    if (!transposed) return start + side / 8 * stride + side % 8 * TILE_ROW_BYTES + 2 * k;
    return start + side / 64 * descriptor_leading(descriptor) + k / 8 * stride + k % 8 * TILE_ROW_BYTES + 2 * (side % 64);
}

// The first byte and the end of what an operand's rows and columns span.
inline std::pair<size_t, size_t> span(uint64_t descriptor, bool transposed, unsigned sides) {
    const size_t first = descriptor_start(descriptor) / TILE_ROW_BYTES * TILE_ROW_BYTES;
    const size_t last = element_address(descriptor, transposed, sides - 1, 15);
    return {first, last / TILE_ROW_BYTES * TILE_ROW_BYTES + TILE_ROW_BYTES};
}

inline void check_descriptor(uint64_t descriptor, bool transposed, unsigned sides, const Place& place) {
    if (descriptor >> 62 != 1) fail_thread(place, "the operand is not swizzled by 128 bytes", nullptr);
    if (descriptor >> 49 & 7) fail_thread(place, "the operand has a base offset", nullptr);
    if (descriptor_stride(descriptor) % 1024 || (transposed && descriptor_leading(descriptor) % 1024))
        fail_thread(place, "eight rows of the operand are not at a multiple of 1024 bytes", nullptr);
    if (!transposed && descriptor_start(descriptor) % TILE_ROW_BYTES > 96)
        fail_thread(place, "sixteen columns of the operand do not lie in one row of its tile", nullptr);
    if (descriptor_start(descriptor) % (transposed ? 1024 : 32) || (!transposed && descriptor_start(descriptor) / 128 % 8))
        fail_thread(place, "the operand does not begin at the first of eight rows", nullptr);
    const auto [first, end] = span(descriptor, transposed, sides);
    if (!is_shared(shared_window() + first, end - first)) {
        fail_thread(place, "the operand is outside of the dynamic shared memory", shared_window() + first);
    }
    if (is_unfenced(first, end)) fail_thread(place, "no fence shows the operand to the product", shared_window() + first);
}

// That the warp reads the operand, by one byte for each sixteen that lie together, the first of a word in turn: none is written in
// smaller pieces. `first` and `end` are its rows of A, or all columns of B.
EMU_PLAIN inline void read_operand(unsigned warp, uint64_t descriptor, bool transposed, unsigned first, unsigned end) {
    unsigned word = 0;
    for (unsigned side = first; side < end; side += transposed ? 8 : 1)
        for (unsigned k = 0; k < 16; k += transposed ? 1 : 8) {
            const size_t address = swizzled(element_address(descriptor, transposed, side, k));
            races::read(warp * WARP_LANES, shared_window() + address + word++ % 4 * 4, 1);
        }
}

EMU_PLAIN inline float element(uint64_t descriptor, bool transposed, unsigned side, unsigned k) {
    uint16_t bits;
    memcpy(&bits, shared_window() + swizzled(element_address(descriptor, transposed, side, k)), sizeof bits);
    return low_half(bits);
}

// The operands of a product in shared memory, read by warp `warp` of the block.
EMU_PLAIN inline void read_operands(unsigned warp, const PendingProduct& product) {
    const unsigned first = product.warp_of_group * 16;
    if (!product.from_registers) read_operand(warp, product.a, product.transposed_a, first, first + 16);
    read_operand(warp, product.b, product.transposed_b, 0, static_cast<unsigned>(product.n));
}

// Whether an unfinished product reads any of these bytes of shared memory.
inline bool is_read(size_t first, size_t end) {
    for (const ProductQueue& queue : queues)
        for (const PendingProduct& product : queue.products) {
            const auto overlaps = [&](uint64_t descriptor, bool transposed, unsigned sides) {
                const auto [from, to] = span(descriptor, transposed, sides);
                return first < to && from < end;
            };
            if (overlaps(product.b, product.transposed_b, static_cast<unsigned>(product.n))) return true;
            if (!product.from_registers && overlaps(product.a, product.transposed_a, 64)) return true;
        }
    return false;
}

// One warp's sixteen rows of a product.
EMU_PLAIN inline void multiply(const PendingProduct& product) {
    alignas(16) static float b[16][256], c[16][256];
    float a[16][16];
    const unsigned n = static_cast<unsigned>(product.n);
    for (unsigned k = 0; k < 16; k++)
        for (unsigned side = 0; side < n; side++) b[k][side] = element(product.b, product.transposed_b, side, k);
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 16 && !product.from_registers; k++)
            a[row][k] = element(product.a, product.transposed_a, product.warp_of_group * 16 + row, k);
    for (unsigned l = 0; l < WARP_LANES; l++) {
        for (unsigned i = 0; i < 4 && product.from_registers; i++) {
            if ((*product.registers[l])[i] != product.values[l][i])
                fail_thread(product.place, "registers of A changed while the product was under way", nullptr);
            const unsigned row = l / 4 + i % 2 * 8, column = l % 4 * 2 + i / 2 * 8;
            a[row][column] = low_half(product.values[l][i]);
            a[row][column + 1] = high_half(product.values[l][i]);
        }
        for (unsigned block = 0; block < n / 8; block++)
            for (unsigned e = 0; e < 4; e++)
                c[l / 4 + e / 2 * 8][block * 8 + l % 4 * 2 + e % 2] =
                    product.accumulate ? product.sums[l][block][e] : 0;
    }
    for (unsigned row = 0; row < 16; row++)
        for (unsigned column = 0; column < n; column += 4) {
            Four sum, numbers;
            memcpy(&sum, &c[row][column], sizeof sum);
            for (unsigned k = 0; k < 16; k++) {
                memcpy(&numbers, &b[k][column], sizeof numbers);
                sum += a[row][k] * numbers;
            }
            memcpy(&c[row][column], &sum, sizeof sum);
        }
    for (unsigned l = 0; l < WARP_LANES; l++)
        for (unsigned block = 0; block < n / 8; block++)
            for (unsigned e = 0; e < 4; e++)
                product.sums[l][block][e] = c[l / 4 + e / 2 * 8][block * 8 + l % 4 * 2 + e % 2];
}

struct Issue {
    float (*sums)[4];
    const uint32_t (*registers)[4];  // Null where A is in shared memory.
    uint64_t a, b;
    int accumulate;
};

template <int N, bool TRANSPOSED_A, bool TRANSPOSED_B>
inline void issue(Issue& lane, const Place& place) {
    group_collective(place, lane, [&](Issue** lanes) {
        const unsigned first = current_number() / GROUP_LANES * 4;
        for (unsigned l = 0; l < GROUP_LANES; l++)
            if (lanes[l]->a != lanes[0]->a || lanes[l]->b != lanes[0]->b || lanes[l]->accumulate != lanes[0]->accumulate)
                fail_thread(place, "lanes disagree on the operands", nullptr);
        const bool from_registers = lanes[0]->registers != nullptr;
        if (!from_registers) check_descriptor(lanes[0]->a, TRANSPOSED_A, 64, place);
        check_descriptor(lanes[0]->b, TRANSPOSED_B, N, place);
        for (unsigned w = 0; w < 4; w++) {
            ProductQueue& queue = queues[first + w];
            if (!queue.is_fenced) fail_thread(place, "no fence since the last wait", nullptr);
            PendingProduct product = {queue.committed, w, N, from_registers, TRANSPOSED_A, TRANSPOSED_B,
                                      lanes[0]->accumulate != 0, lanes[0]->a, lanes[0]->b, {}, {}, {}, place};
            for (unsigned l = 0; l < WARP_LANES; l++) {
                const Issue& from = *lanes[w * WARP_LANES + l];
                product.sums[l] = from.sums;
                product.registers[l] = from.registers;
                if (from.registers) memcpy(product.values[l], *from.registers, sizeof product.values[l]);
            }
            if (EMU_RACES) read_operands(first + w, product);
            queue.products.push_back(product);
        }
    });
}

// Does the products of all committed groups of this warp but the newest n.
__attribute__((noinline)) inline void finish_products(unsigned n, const Place& place) {
    int nothing = 0;
    collective(ALL_LANES, place, nothing, [&](int**) {
        ProductQueue& queue = queues[current_number() / WARP_LANES];
        queue.is_fenced = false;
        const unsigned end = queue.committed < n ? 0 : queue.committed - n;
        size_t done = 0;
        for (; done < queue.products.size() && queue.products[done].group < end; done++) {
            // Until now, as at the beginning.
            if (EMU_RACES) read_operands(current_number() / WARP_LANES, queue.products[done]);
            multiply(queue.products[done]);
        }
        queue.products.erase(queue.products.begin(), queue.products.begin() + static_cast<ptrdiff_t>(done));
    });
}

}  // namespace emu
