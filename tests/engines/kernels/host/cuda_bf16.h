// bfloat16 for a host compiler: the two conversions that kernels use, to nearest even.
#pragma once
#include "cuda_fp16.h"

struct __nv_bfloat16 {
    std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) { return float_of(std::uint32_t(value.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    std::uint32_t bits = bits_of(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FFF};  // NaN
    bits += 0x7FFFu + (bits >> 16 & 1u);
    return {static_cast<std::uint16_t>(bits >> 16)};
}
