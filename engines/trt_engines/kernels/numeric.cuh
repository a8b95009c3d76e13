// The engine's own number type, VALUE: float, __half or __nv_bfloat16. All arithmetic is in float32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void store(float *target, float value) { *target = value; }
__device__ inline void store(__half *target, float value) { *target = __float2half_rn(value); }
__device__ inline void store(__nv_bfloat16 *target, float value) { *target = __float2bfloat16_rn(value); }

// The element of a row that this thread computes: x runs along the row, blockIdx.y is the row.
__device__ inline int element_of_row() { return blockIdx.x * blockDim.x + threadIdx.x; }
