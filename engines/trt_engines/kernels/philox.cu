// PyTorch's CUDA generator: step noise without a draw or an upload by the host. See twins.py for the definition.
#include "numeric.cuh"

// Philox 4x32-10 (Salmon et al. 2011), in place.
__device__ inline void philox_4x32(unsigned word[4], unsigned long long seed) {
    unsigned low = (unsigned)seed, high = (unsigned)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long even = 0xD2511F53ull * word[0], odd = 0xCD9E8D57ull * word[2];
        word[0] = (unsigned)(odd >> 32) ^ word[1] ^ low;
        word[1] = (unsigned)odd;
        word[2] = (unsigned)(even >> 32) ^ word[3] ^ high;
        word[3] = (unsigned)even;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
}

extern "C" __global__ void philox_normal(float *state, const long long *seed, const long long *call,
                                         const long long *first, int size, int tensor, int tensors) {
    const int element = element_of_row();
    const long long row = blockIdx.y;
    if (element >= size || call[row] < 0) return;
    const unsigned long long number = call[row], value = first[row] + element;
    unsigned word[4] = {(unsigned)number, (unsigned)(number >> 32), (unsigned)value, (unsigned)(value >> 32)};
    philox_4x32(word, (unsigned long long)seed[row]);
    const float scale = 0x1p-32f, turn = scale * 6.2831855f;
    const float u = (float)word[0] * scale + scale / 2.0f;
    const float v = (float)word[1] * turn + turn / 2.0f;
    state[(row * tensors + tensor) * size + element] = sqrtf(-2.0f * logf(u)) * sinf(v);
}
