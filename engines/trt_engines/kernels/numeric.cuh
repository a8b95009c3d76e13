// The engine's own number type, VALUE: float, Half or BFloat16. All arithmetic is in float32.
#pragma once
#include <conversions.cuh>

__device__ inline float to_float(float value) { return value; }

__device__ inline void store(float *target, float value) { *target = value; }
__device__ inline void store(Half *target, float value) { *target = to_half(value); }
__device__ inline void store(BFloat16 *target, float value) { *target = to_bfloat16(value); }

// The element of a row that this thread computes: x runs along the row, blockIdx.y is the row.
__device__ inline int element_of_row() { return blockIdx.x * blockDim.x + threadIdx.x; }
