"""The tensors by which a denoiser's architecture is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Tensors that the denoisers of an architecture have, in one layout, and that no other has all of."""

    architecture: str
    layout: str
    tensors: Mapping[str, Shape]
    absent: tuple[str, ...] = ()  # what a relative has beside them
