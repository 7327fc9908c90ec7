// Copies of pages of the cache: a prompt's last page, partly filled, for each of its candidates.
#include "common.cuh"

// Where a layer's keys, values or their scales stand, and the bytes of one page of them, a multiple of 16.
struct PagedTensor {
    uint64_t address, page_bytes;
};

// Copy blockIdx.x, {from, to} of `copies`, of tensor blockIdx.y. No page is both read and written, and none written twice.
extern "C" __global__ void copy_pages(const PagedTensor* __restrict__ tensors, const uint32_t* __restrict__ copies) {
    const PagedTensor tensor = tensors[blockIdx.y];
    const uint32_t from = copies[2 * blockIdx.x], to = copies[2 * blockIdx.x + 1];
    const Vec<float>* source = reinterpret_cast<const Vec<float>*>(tensor.address + from * tensor.page_bytes);
    Vec<float>* target = reinterpret_cast<Vec<float>*>(tensor.address + to * tensor.page_bytes);
    const int count = (int)(tensor.page_bytes / sizeof(Vec<float>));
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += blockDim.x) target[i] = source[i];
}
