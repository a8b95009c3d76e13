"""Checkpoints that take no room."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from trt_export.checkpoints.safetensors_file import SIZES, encode_header


def _file_with_holes(file: Path, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file of these types and shapes whose values take no place on the disk: all are zero."""
    header = encode_header(described)
    with file.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(math.prod(shape) * SIZES[word] for word, shape in described.values()))


@pytest.fixture
def file_with_holes() -> Callable[[Path, Mapping[str, tuple[str, tuple[int, ...]]]], None]:
    return _file_with_holes
