"""Whether two plans are the same engine: all their bytes, but for how TensorRT-RTX numbers tensors of its own.

Seen with version 1.7.1: two builds of the denoiser of Stable Diffusion 1.5 differ in some 400 of 1.7 billion bytes, all
of them digits in names such as `__mye630098`; small networks came out alike. A single thread changes nothing about it.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np

CHUNK = 1 << 26
"""Bytes that are compared at a time."""

MOST_DIFFERENCES = 100_000
"""Differing bytes that are looked at; more of them are no matter of names."""

_NAME = re.compile(rb"__mye\d+")
_REACH = 32  # longer than any such name


def same_engine(one: Path, other: Path) -> bool:
    """Whether two plans differ in nothing but the numbers in the builder's own names.

    Raises: OSError: a file cannot be read. ValueError: a file is empty.
    """
    with one.open("rb") as first, other.open("rb") as second:
        a = mmap.mmap(first.fileno(), 0, access=mmap.ACCESS_READ)
        b = mmap.mmap(second.fileno(), 0, access=mmap.ACCESS_READ)
    if len(a) != len(b):
        return False
    places = [
        start + int(place)
        for start in range(0, len(a), CHUNK)
        for place in _differences(a[start : start + CHUNK], b[start : start + CHUNK])
    ]
    if len(places) > MOST_DIFFERENCES:
        return False
    return all(_in_a_name(a, place) and _in_a_name(b, place) for place in places)


def _differences(a: bytes, b: bytes) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    if a == b:
        return np.empty(0, np.intp)
    return np.flatnonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8))


def _in_a_name(data: mmap.mmap, place: int) -> bool:
    start = max(0, place - _REACH)
    names = _NAME.finditer(data[start : place + _REACH])
    return any(name.start() <= place - start < name.end() for name in names)
