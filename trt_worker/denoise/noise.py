"""Noise as PyTorch draws it, without PyTorch: the CPU generator, the CUDA generator, and Brownian motion over both.

Every image draws its own noise as if it were alone, so it is the same picture in any batch.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_worker.denoise.program import FreshNoise, IntervalNoise, NoiseNeed

Float32 = NDArray[np.float32]
_BLOCK = 16


def cpu_randn(seed: int, shape: tuple[int, ...], draw: int = 0) -> Float32:
    """`torch.randn` of a CPU generator seeded with `seed`, after `draw` earlier draws of the same shape.

    Mersenne Twister seeded with the low 32 bits, 24-bit uniforms, Box-Muller over blocks of 16 values; a size that is
    no multiple of 16 draws its last 16 values once more. Agrees with PyTorch 2.13 to 1e-6.

    Args:
        shape: at least 16 values in all.
    Raises: ValueError: fewer than 16 values, which PyTorch draws by another rule that no latent ever meets.
    """
    size = math.prod(shape)
    if size < _BLOCK:
        raise ValueError(f"{size} values: noise of fewer than {_BLOCK} is not drawn this way")
    tail = _BLOCK if size % _BLOCK else 0
    generator = np.random.RandomState(seed & 0xFFFFFFFF)
    if draw:
        generator.bytes(4 * (size + tail) * draw)
    words = np.frombuffer(generator.bytes(4 * (size + tail)), "<u4")
    uniforms = (words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)
    values = np.empty(size, np.float32)
    whole = size - size % _BLOCK
    values[:whole] = _box_muller(uniforms[:whole])
    if tail:
        values[-_BLOCK:] = _box_muller(uniforms[size:])
    return values.reshape(shape)


def _box_muller(uniforms: Float32) -> Float32:
    """Normal values from uniform ones: in each block of 16, value j is paired with value j + 8."""
    blocks = uniforms.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, 0]))
    angle = np.float32(2 * math.pi) * blocks[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def philox_randn(seed: int, shape: tuple[int, ...], call: int, first: int = 0) -> Float32:
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


class BrownianTree:
    """Brownian motion over noise levels, the same for every order of questions.

    The dyadic tree of the torchsde package with a tolerance of 1e-6: an interval's middle is drawn from a generator
    seeded by the tree's seed and the interval's place, and times are rounded to six decimals.

    Args:
        seed: entropy of the tree.
        start, end: lowest and highest noise level.
        shape, draw: of one image; image k of a batch takes the k-th part of every draw.
    """

    _DIGITS = 6
    _POOL = 24

    def __init__(self, seed: int, start: float, end: float, shape: tuple[int, ...], draw: int = 0) -> None:
        self._seed, self._shape, self._draw = seed, shape, draw
        self._start, self._end = round(start, self._DIGITS), round(end, self._DIGITS)
        top = np.random.SeedSequence(entropy=seed, pool_size=self._POOL).generate_state(3)[0]
        self._whole = self._normal(int(top)) * np.float32(math.sqrt(end - start))
        self._values: dict[float, Float32] = {}

    def unit_increment(self, start: float, end: float) -> Float32:
        """(W(end) - W(start)) / sqrt(|end - start|), in float32; unit variance."""
        first, last = float(np.float32(start)), float(np.float32(end))
        return (self._value(last) - self._value(first)) / np.float32(math.sqrt(abs(last - first)))

    def _value(self, time: float) -> Float32:
        """W(time) - W(lowest level)."""
        time = min(max(round(time, self._DIGITS), self._start), self._end)
        if time not in self._values:
            self._values[time] = self._descend(time)
        return self._values[time]

    def _descend(self, time: float) -> Float32:
        start, end, increment, key, depth = self._start, self._end, self._whole, 0, 0
        below = np.zeros(self._shape, np.float32)
        while True:
            if time == start:
                return below
            if time == end:
                return below + increment
            middle = round(0.5 * (end + start), self._DIGITS)
            seeds = np.random.SeedSequence(entropy=self._seed, spawn_key=(key, depth), pool_size=self._POOL)
            noise = self._normal(int(seeds.generate_state(4)[0]))
            share = 1 / (end - start)
            spread = math.sqrt((middle - start) * (end - middle) * share)
            left = np.float32(middle - start) * increment * np.float32(share) + np.float32(spread) * noise
            depth += 1
            if time <= middle:
                end, increment, key = middle, left, 2 * key
            else:
                below, start, increment, key = below + left, middle, increment - left, 2 * key + 1

    def _normal(self, seed: int) -> Float32:
        return cpu_randn(seed, self._shape, self._draw)


class StepNoise(Protocol):
    """Where one image's step noise comes from."""

    def draw(self, need: NoiseNeed) -> Float32 | None:
        """The noise a stage asks for, unit variance; None when it asks for none. Called once per stage, in order."""


class GeneratorNoise:
    """Fresh noise from a generator stream, Brownian increments from a tree.

    Args:
        cuda: True: PyTorch's CUDA stream, which the network's other workers draw step noise from, from its beginning.
            False: its CPU stream, also from its beginning: the first draw repeats the initial noise. Reference tables
            are made that way; pictures must not be.
    """

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        *,
        draw: int = 0,
        brownian_range: tuple[float, float] | None = None,
        cuda: bool = True,
    ) -> None:
        self._seed, self._shape, self._draw, self._cuda = seed, shape, draw, cuda
        self._range = brownian_range
        self._tree: BrownianTree | None = None
        self._calls = 0

    def draw(self, need: NoiseNeed) -> Float32 | None:
        match need:
            case None:
                return None
            case FreshNoise():
                call, self._calls = self._calls, self._calls + 1
                if self._cuda:
                    return philox_randn(self._seed, self._shape, call, first=self._draw * math.prod(self._shape))
                return cpu_randn(self._seed, self._shape, call)
            case IntervalNoise(start, end):
                if self._tree is None:
                    if self._range is None:
                        raise ValueError("Brownian noise needs the range of its noise levels")
                    low, high = (float(np.float32(level)) for level in self._range)
                    self._tree = BrownianTree(self._seed, low, high, self._shape, self._draw)
                return self._tree.unit_increment(start, end)
