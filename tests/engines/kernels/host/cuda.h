// Enough of CUDA C for a host compiler: threads are a loop, one after another.
#pragma once
#include <cmath>

#define __global__
#define __device__

struct Index {
    unsigned x, y, z;
};
static Index blockIdx, blockDim, threadIdx;

template <typename Body>
void for_every_thread(unsigned grid_x, unsigned grid_y, unsigned block_x, Body body) {
    blockDim = {block_x, 1, 1};
    for (blockIdx = {0, 0, 0}; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            for (threadIdx = {0, 0, 0}; threadIdx.x < block_x; ++threadIdx.x) body();
}
