// Decoded pictures to bytes: planes in, RGB triples out. See twins.py for the definition.
#include "numeric.cuh"

extern "C" __global__ void to_pixels(unsigned char *pixels, int *not_finite, const VALUE *decoded, int height,
                                     int width) {
    const int cells = height * width;
    const int cell = element_of_row();
    if (cell >= cells) return;
    const long long row = blockIdx.y;
    for (int channel = 0; channel < 3; ++channel) {
        float value = to_float(decoded[(row * 3 + channel) * cells + cell]);
        if (!(value - value == 0.0f)) {  // NaN and both infinities
            not_finite[row] = 1;         // every thread that gets here stores the same
            if (value != value) value = -1.0f;
        }
        const float scaled = (value * 0.5f + 0.5f) * 255.0f;
        const float bounded = scaled < 0.0f ? 0.0f : scaled > 255.0f ? 255.0f : scaled;
        pixels[(row * cells + cell) * 3 + channel] = (unsigned char)bounded;
    }
}
