// The conversions that kernels use, for a host compiler.
#pragma once
#include <cstdint>
#include <cstring>

struct Half {
    std::uint16_t bits;
};

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float to_float(Half half) {
    const std::uint32_t sign = (half.bits & 0x8000u) << 16, magnitude = half.bits & 0x7FFFu;
    if (magnitude >= 0x7C00u) return float_of(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
    if (magnitude < 0x0400u) return (sign ? -1.0f : 1.0f) * magnitude * 0x1p-24f;
    return float_of(sign | ((magnitude << 13) + (112u << 23)));
}

inline Half to_half(float value) {
    const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    std::uint32_t half;
    if (magnitude > 0x7F800000u) half = 0x7E00u;                 // NaN
    else if (magnitude >= 0x477FF000u) half = 0x7C00u;           // 65520 and above: infinity
    else if (magnitude < 0x38800000u)                            // subnormal: the addition rounds
        half = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
    else half = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
    return {static_cast<std::uint16_t>(sign | half)};
}

struct BFloat16 {
    std::uint16_t bits;
};

inline float to_float(BFloat16 value) { return float_of(std::uint32_t(value.bits) << 16); }

inline BFloat16 to_bfloat16(float value) {
    std::uint32_t bits = bits_of(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FFF};  // NaN
    bits += 0x7FFFu + (bits >> 16 & 1u);
    return {static_cast<std::uint16_t>(bits >> 16)};
}
