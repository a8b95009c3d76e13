"""Rows that the tables of several families have in common."""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Entry

DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
"""What files put in front of a denoiser's names: all networks in one file, then files of one network."""

KINDS = ("weight", "bias")


def row(stored: str, *library: str) -> Entry:
    """A stored tensor of one parameter, or of several along the first axis."""
    return Entry(stored=stored, library=library)


def affine(*pairs: tuple[str, str]) -> Iterator[Entry]:
    """Layers with a weight and a bias (in some networks without: a row that nothing asks for is no harm)."""
    for stored, library in pairs:
        for kind in KINDS:
            yield row(f"{stored}.{kind}", f"{library}.{kind}")


def fused(stored: str, *library: str) -> Iterator[Entry]:
    """Layers of one input whose weights and biases are stored as those of a single layer, one after another."""
    for kind in KINDS:
        yield row(f"{stored}.{kind}", *(f"{layer}.{kind}" for layer in library))
