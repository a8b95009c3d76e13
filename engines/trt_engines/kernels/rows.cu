// What a denoising step does to the rows of a batch, before and after the network. See twins.py for the definitions.
#include "numeric.cuh"

extern "C" __global__ void row_scale(VALUE *sample, const float *state, const int *place, const float *scale,
                                     int size, int tensors) {
    const int element = element_of_row();
    if (element >= size) return;
    const long long row = blockIdx.y;
    const long long source = (long long)place[row] * tensors * size + element;
    store(&sample[row * size + element], state[source] * scale[row]);
}

#define MOST_TENSORS 8  // of a row: with loops of fixed length they stay in registers

extern "C" __global__ void row_combine(float *state, const VALUE *outputs, const float *mix,
                                       const long long *conditional, const long long *unconditional, int size,
                                       int registers, int tensors) {
    const int element = element_of_row();
    if (element >= size) return;
    const long long row = blockIdx.y;
    float *tensor_of_row = state + row * tensors * size + element;
    const float *factors = mix + row * registers * tensors;
    float term[MOST_TENSORS];
#pragma unroll
    for (int tensor = 0; tensor < MOST_TENSORS; ++tensor) {
        bool used = false;  // what nobody needs is not read: most samplers use three tensors of eight
        for (int target = 0; target < registers; ++target) {
            if (tensor < tensors) used = used || factors[target * tensors + tensor] != 0.0f;
        }
        term[tensor] = 0.0f;
        if (used && (tensor == registers || tensor == registers + 1)) {
            const long long first = (tensor == registers ? conditional : unconditional)[row];
            if (first >= 0) term[tensor] = to_float(outputs[first + element]);
        } else if (used) {
            term[tensor] = tensor_of_row[(long long)tensor * size];
        }
    }
    for (int target = 0; target < registers; ++target) {
        float total = 0.0f;
        bool begun = false;
#pragma unroll
        for (int tensor = 0; tensor < MOST_TENSORS; ++tensor) {
            const float factor = tensor < tensors ? factors[target * tensors + tensor] : 0.0f;
            if (factor != 0.0f) {
                const float part = factor * term[tensor];
                total = begun ? total + part : part;
                begun = true;
            }
        }
        tensor_of_row[(long long)target * size] = total;
    }
}

extern "C" __global__ void mask_blend(VALUE *sample, const VALUE *known, const float *mask, int channels, int cells) {
    const int element = element_of_row();
    if (element >= channels * cells) return;
    const long long row = blockIdx.y;
    const long long at = row * channels * cells + element;
    const float keep = mask[row * cells + element % cells];
    store(&sample[at], to_float(sample[at]) * keep + to_float(known[at]) * (1.0f - keep));
}
