"""Noise as PyTorch draws it, without PyTorch: its CPU generator, Brownian motion over that, and its CUDA generator.

Every image draws its own noise as if it were alone, so it is the same picture in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_engines.philox import philox_randn
from trt_worker.denoise.program import FreshNoise, IntervalNoise, NoiseNeed

Float32 = NDArray[np.float32]
_BLOCK = 16


class CpuGenerator:
    """PyTorch's CPU generator, seeded anew for every tensor: making one takes as long as drawing a small latent."""

    def __init__(self) -> None:
        self._bits = np.random.MT19937(0)
        self._words = np.random.RandomState(self._bits)

    def randn(self, seed: int, shape: tuple[int, ...], draw: int = 0) -> Float32:
        """`torch.randn` of a generator seeded with `seed`, after `draw` earlier draws of the same shape.

        Mersenne Twister seeded with the low 32 bits, 24-bit uniforms, Box-Muller over blocks of 16 values; a size that
        is no multiple of 16 draws its last 16 values once more. Agrees with PyTorch 2.13 to 1e-6.

        Args:
            shape: at least 16 values in all.
        Raises: ValueError: fewer than 16 values, which PyTorch draws by another rule that no latent ever meets.
        """
        size = math.prod(shape)
        if size < _BLOCK:
            raise ValueError(f"{size} values: noise of fewer than {_BLOCK} is not drawn this way")
        tail = _BLOCK if size % _BLOCK else 0
        self._words.seed(seed & 0xFFFFFFFF)
        if draw:
            self._bits.random_raw((size + tail) * draw, output=False)
        values = np.empty(size, np.float32)
        whole = size - size % _BLOCK
        for begin in range(0, whole, _CPU_VALUES):
            self._normal(values[begin : min(begin + _CPU_VALUES, whole)])
        if tail:
            self._bits.random_raw(size - whole, output=False)  # drawn, and then drawn anew with the values before them
            self._normal(values[-_BLOCK:])
        return values.reshape(shape)

    def _normal(self, values: Float32) -> None:
        """The next normal values: in each block of 16, the uniform value j is paired with value j + 8."""
        words = self._words.randint(0, 1 << 24, len(values), np.uint32).reshape(-1, 2, _BLOCK // 2)
        radius, angle = words[:, 0].astype(np.float32), words[:, 1].astype(np.float32)
        radius *= np.float32(2.0**-24)
        np.subtract(np.float32(1), radius, out=radius)
        np.log(radius, out=radius)
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        angle *= np.float32(2.0**-24)
        angle *= np.float32(2 * math.pi)
        pairs = values.reshape(words.shape)
        np.multiply(radius, np.cos(angle), out=pairs[:, 0])
        np.multiply(radius, np.sin(angle, out=angle), out=pairs[:, 1])


_CPU_VALUES = 16384
"""Values that are drawn at a time: what they take stays in a core's cache."""


def cpu_randn(seed: int, shape: tuple[int, ...], draw: int = 0) -> Float32:
    """One tensor of a generator of its own, see `CpuGenerator.randn`."""
    return CpuGenerator().randn(seed, shape, draw)


@dataclass(slots=True)
class _Interval:
    """A node of the tree: the motion W from `start` to `end`."""

    start: float
    end: float
    key: int  # among the intervals of its depth
    before: Float32  # W(start)
    increment: Float32  # W(end) - W(start)
    half: Float32 | None = None  # W(middle) - W(start); None: not drawn yet

    @property
    def middle(self) -> float:
        return round(0.5 * (self.end + self.start), BrownianTree.DIGITS)


class BrownianTree:
    """Brownian motion over noise levels, the same for every order of questions.

    The dyadic tree of the torchsde package with a tolerance of 1e-6: an interval's middle is drawn from a generator
    seeded by the tree's seed and the interval's place, and times are rounded to six decimals.

    A question draws some twenty latents on its way down. A sampler asks for times that are close to each other, so the
    way to the last one is kept, and the next leaves it where it must: it costs memory of some fifty latents and no
    result depends on it.

    Args:
        seed: entropy of the tree.
        start, end: lowest and highest noise level.
        shape, draw: of one image; image k of a batch takes the k-th part of every draw.
    """

    DIGITS = 6
    _POOL = 24
    _REMEMBERED = 3

    def __init__(self, seed: int, start: float, end: float, shape: tuple[int, ...], draw: int = 0) -> None:
        self._seed, self._shape, self._draw = seed, shape, draw
        self._generator = CpuGenerator()
        top = np.random.SeedSequence(entropy=seed, pool_size=self._POOL).generate_state(1)[0]
        whole = self._normal(int(top)) * np.float32(math.sqrt(end - start))
        first, last = round(start, self.DIGITS), round(end, self.DIGITS)
        self._way = [_Interval(first, last, 0, np.zeros(shape, np.float32), whole)]  # each one lies in the one before
        self._values: dict[float, Float32] = {}  # at the last times asked for, the latest at the end

    def unit_increment(self, start: float, end: float) -> Float32:
        """(W(end) - W(start)) / sqrt(|end - start|), in float32; unit variance."""
        first, last = float(np.float32(start)), float(np.float32(end))
        increment = self._value(last) - self._value(first)
        increment /= np.float32(math.sqrt(abs(last - first)))
        return increment

    def _value(self, time: float) -> Float32:
        """W(time) - W(lowest level)."""
        whole = self._way[0]
        time = min(max(round(time, self.DIGITS), whole.start), whole.end)
        value = self._values.pop(time) if time in self._values else self._descend(time)
        self._values[time] = value
        if len(self._values) > self._REMEMBERED:
            del self._values[next(iter(self._values))]
        return value

    def _descend(self, time: float) -> Float32:
        way = self._way
        while len(way) > 1 and not way[-1].start < time < way[-1].end:
            way.pop()
        while way[-1].start < time < way[-1].end:
            way.append(self._half_with(time))
        last = way[-1]
        return last.before if time == last.start else last.before + last.increment

    def _half_with(self, time: float) -> _Interval:
        """The half of the last interval in which a time lies."""
        whole, middle = self._way[-1], self._way[-1].middle
        if whole.half is None:
            whole.half = self._draw_half(whole, middle)
        if time <= middle:
            return _Interval(whole.start, middle, 2 * whole.key, whole.before, whole.half)
        before, increment = whole.before + whole.half, whole.increment - whole.half
        return _Interval(middle, whole.end, 2 * whole.key + 1, before, increment)

    def _draw_half(self, whole: _Interval, middle: float) -> Float32:
        start, end, depth = whole.start, whole.end, len(self._way) - 1
        seeds = np.random.SeedSequence(entropy=self._seed, spawn_key=(whole.key, depth), pool_size=self._POOL)
        noise = self._normal(int(seeds.generate_state(1)[0]))
        share = 1 / (end - start)
        noise *= np.float32(math.sqrt((middle - start) * (end - middle) * share))
        half = np.float32(middle - start) * whole.increment
        half *= np.float32(share)
        half += noise
        return half

    def _normal(self, seed: int) -> Float32:
        return self._generator.randn(seed, self._shape, self._draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhiloxDraw:
    """One tensor of PyTorch's CUDA generator, not drawn yet: a device's kernel `philox_normal` can do it."""

    seed: int  # 0 <= seed < 2**64
    call: int  # tensors that the generator has given before
    first: int  # element number of its first value

    def values(self, shape: tuple[int, ...]) -> Float32:
        """The tensor, drawn here."""
        return philox_randn(self.seed, shape, self.call, self.first)


class StepNoise(Protocol):
    """Where one image's step noise comes from: for every stage, in order, one of the two is called once."""

    def ask(self, need: NoiseNeed) -> PhiloxDraw | Float32 | None:
        """The noise a stage asks for, unit variance: what a device can draw itself, or the values; None: no noise."""

    def draw(self, need: NoiseNeed) -> Float32 | None:
        """The noise a stage asks for, unit variance; None when it asks for none."""


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

    def ask(self, need: NoiseNeed) -> PhiloxDraw | Float32 | None:
        match need:
            case None:
                return None
            case FreshNoise():
                call, self._calls = self._calls, self._calls + 1
                if self._cuda:
                    return PhiloxDraw(seed=self._seed, call=call, first=self._draw * math.prod(self._shape))
                return cpu_randn(self._seed, self._shape, call)
            case IntervalNoise(start, end):
                if self._tree is None:
                    if self._range is None:
                        raise ValueError("Brownian noise needs the range of its noise levels")
                    low, high = (float(np.float32(level)) for level in self._range)
                    self._tree = BrownianTree(self._seed, low, high, self._shape, self._draw)
                return self._tree.unit_increment(start, end)

    def draw(self, need: NoiseNeed) -> Float32 | None:
        asked = self.ask(need)
        return asked.values(self._shape) if isinstance(asked, PhiloxDraw) else asked
