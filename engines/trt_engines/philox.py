"""PyTorch's CUDA generator: Philox 4x32-10, and what `torch.randn` makes of it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def philox_randn(seed: int, shape: tuple[int, ...], call: int, first: int = 0) -> NDArray[np.float32]:
    """`torch.randn` of a CUDA generator, as it is for tensors small enough that each thread draws once.

    Element i of draw `call` is the Box-Muller transform of the first two outputs of Philox 4x32-10 with the counter
    (call, 0, i, 0) and the seed as its key, whatever the card. Restated from PyTorch's distribution templates and
    cuRAND's documentation; not run against a card here.

    Args:
        call: how many tensors the generator has given before.
        first: element number of the first value; image k of a batch starts at k times its size.
    """
    size = math.prod(shape)
    normal = np.empty(size, np.float32)
    for begin in range(0, size, _PHILOX_BLOCK):
        end = min(begin + _PHILOX_BLOCK, size)
        elements = np.arange(first + begin, first + end, dtype=np.uint64)
        counter = np.zeros((4, end - begin), np.uint64)
        counter[0], counter[1] = call & 0xFFFFFFFF, call >> 32
        counter[2], counter[3] = elements & 0xFFFFFFFF, elements >> 32
        u, v = philox_4x32(counter, seed)[:2].astype(np.float32)
        scale = np.float32(2.0**-32)
        u = u * scale + scale / 2
        v = v * (scale * np.float32(2 * math.pi)) + (scale / 2) * np.float32(2 * math.pi)
        normal[begin:end] = np.sqrt(np.float32(-2) * np.log(u)) * np.sin(v)
    return normal.reshape(shape)


_PHILOX_BLOCK = 8192
"""Values that are drawn at a time: what they take stays in a core's cache, which is several times as fast."""


def philox_4x32(counter: NDArray[np.uint64], seed: int, rounds: int = 10) -> NDArray[np.uint64]:
    """Philox 4x32. Args: counter: [4, n], each below 2**32. Source: Salmon et al. 2011, Random123."""
    even, odd = counter[0::2].copy(), counter[1::2].copy()  # words 0 and 2, words 1 and 3
    product = np.empty_like(even)
    crossed = product[::-1]
    multiplier = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(rounds):
        np.multiply(even, multiplier, out=product)
        np.right_shift(crossed, np.uint64(32), out=even)
        even ^= odd
        even ^= np.array([[low], [high]], np.uint64)
        np.bitwise_and(crossed, np.uint64(0xFFFFFFFF), out=odd)
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([even[0], odd[0], even[1], odd[1]])
