// What the kernels of attention know of a batch: its segments, which keys a query sees, and what a product becomes.
#pragma once
#include "tile.cuh"

// Rows row..row + rows of the packed batch, the first at `position`; its keys at positions before that are the rows from
// `prefix` on.
struct __align__(16) Segment {
    int row, rows, position, prefix;
};

struct __align__(16) AttentionShape {
    int heads, kv_heads, d, window;  // window 0: none
    float scale, cap;                // cap 0: none
};

// The packed row of the key at position j.
__device__ __forceinline__ int64_t key_row(const Segment& s, int j) {
    return j < s.position ? s.prefix + j : s.row + (j - s.position);
}

__device__ __forceinline__ bool is_visible(const AttentionShape& a, int query, int key) {
    return key <= query && (a.window == 0 || key > query - a.window);
}

// The score of a product q·k, and the derivative of the score by the product.
template <class T>
__device__ __forceinline__ float score(const AttentionShape& a, float product, float& slope) {
    const float x = product * a.scale;
    if (a.cap == 0) {
        slope = a.scale;
        return x;
    }
    const float t = tanh_of<T>(x / a.cap);
    slope = (1.0f - t * t) * a.scale;
    return a.cap * t;
}
