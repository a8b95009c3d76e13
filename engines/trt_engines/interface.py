"""What each network takes and gives: the tensor names, shapes and types every backend and every export agree on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trt_engines.backend import EngineSpec
from trt_engines.model import Component

CLIP_TOKENS = 77
"""Tokens of one text encoder chunk: start, 75 of the prompt, end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One bound tensor at the full rows of its bucket."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    row_axis: int = 0

    @property
    def bytes(self) -> int:
        """Size at full rows."""
        return self.bytes_at(self.shape[self.row_axis])

    def bytes_at(self, rows: int) -> int:
        """Size with `rows` rows."""
        return math.prod(self.at(rows)) * self.dtype.itemsize

    def at(self, rows: int) -> tuple[int, ...]:
        """The shape with `rows` rows."""
        return (*self.shape[: self.row_axis], rows, *self.shape[self.row_axis + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Inputs and outputs of one network in one bucket."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Inputs and outputs."""
        return (*self.inputs, *self.outputs)

    @property
    def bytes(self) -> int:
        """Size of all tensors at full rows."""
        return sum(tensor.bytes for tensor in self.tensors)


_FLOAT = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)


def interface_of(spec: EngineSpec, *, text_layers: int = 1) -> Interface:
    """The tensors of a network.

    Args:
        text_layers: hidden layers that the text encoder returns; its output is [layers, rows, 77, width], entry k - 1
            being what a clip skip of k asks for.

    Shapes: latents are [rows, channels, height / scale, width / scale]; pixels [rows, 3, height, width] in -1..1.
    """
    model, bucket = spec.model, spec.bucket
    rows = bucket.rows
    latent = (rows, model.latent_channels, bucket.height // model.latent_scale, bucket.width // model.latent_scale)
    pixels = (rows, 3, bucket.height, bucket.width)
    match spec.component:
        case Component.TEXT_ENCODER:
            context = (text_layers, rows, CLIP_TOKENS, model.context_width)
            return Interface(
                inputs=(TensorSpec(name="input_ids", shape=(rows, CLIP_TOKENS), dtype=_INT64),),
                outputs=(TensorSpec(name="context", shape=context, dtype=_FLOAT, row_axis=1),),
            )
        case Component.DENOISER:
            return Interface(
                inputs=(
                    TensorSpec(name="sample", shape=latent, dtype=_FLOAT),
                    TensorSpec(name="timestep", shape=(rows,), dtype=_FLOAT),
                    TensorSpec(name="context", shape=(rows, bucket.tokens, model.context_width), dtype=_FLOAT),
                ),
                outputs=(TensorSpec(name="noise_pred", shape=latent, dtype=_FLOAT),),
            )
        case Component.VAE_DECODER:
            return Interface(
                inputs=(TensorSpec(name="latent", shape=latent, dtype=_FLOAT),),
                outputs=(TensorSpec(name="pixels", shape=pixels, dtype=_FLOAT),),
            )
        case Component.VAE_ENCODER:
            return Interface(
                inputs=(TensorSpec(name="pixels", shape=pixels, dtype=_FLOAT),),
                outputs=(TensorSpec(name="latent", shape=latent, dtype=_FLOAT),),
            )
