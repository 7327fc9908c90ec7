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
    const float* __restrict__ source = reinterpret_cast<const float*>(tensor.address + from * tensor.page_bytes);
    float* __restrict__ target = reinterpret_cast<float*>(tensor.address + to * tensor.page_bytes);
    const int count = (int)(tensor.page_bytes / sizeof(float));
#pragma unroll 4
    for (int i = threadIdx.x * Vec<float>::N; i < count; i += blockDim.x * Vec<float>::N) store_vec(target + i, load_vec(source + i));
}
