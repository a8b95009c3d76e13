// Half precision and bfloat16 to float32 and back, to nearest even. CUDA's own headers are not used: NVRTC comes
// without them in the release that PyTorch asks for, and a rig has no other CUDA.
#pragma once

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

__device__ inline float to_float(Half half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half.bits));
    return value;
}

__device__ inline Half to_half(float value) {
    Half half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
}

__device__ inline float to_float(BFloat16 value) { return __uint_as_float((unsigned)value.bits << 16); }

__device__ inline BFloat16 to_bfloat16(float value) {  // Turing has no instruction for it
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FFF};  // NaN
    bits += 0x7FFFu + (bits >> 16 & 1u);
    return {(unsigned short)(bits >> 16)};
}
