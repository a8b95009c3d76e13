"""Networks that cost next to nothing and still depend on everything they are given: what makes a wrong picture seen.

Nothing is learned here. Every row of an output is a function of the same row of the inputs, so that a job's picture
says whether its prompt, its noise and its place in a batch were its own, whoever it shared the batch with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.devices.operations import Network
from trt_engines.interface import interface_of
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint

Arrays = Mapping[str, NDArray[Any]]


class RowwiseBackend:
    """Computes with NumPy, from no weights."""

    name = "rowwise"

    def refuses(self, spec: EngineSpec) -> str | None:
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=0)

    def load(self, spec: EngineSpec) -> RowwiseEngine:
        return RowwiseEngine(spec)

    def unload(self, model: Model, component: Component) -> None:
        pass


class RowwiseEngine:
    """One network in one bucket."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._network = rowwise_network(spec)
        self._interface = interface_of(spec)
        self.inputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self._interface.inputs}
        self.outputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self._interface.outputs}

    def run(self, rows: int) -> None:
        if not 1 <= rows <= self.spec.bucket.rows:
            raise ValueError(f"{self.spec.label}: {rows} rows asked of {self.spec.bucket.rows}")
        results = self._network({name: tensor[:rows] for name, tensor in self.inputs.items()})
        for tensor in self._interface.outputs:
            np.moveaxis(self.outputs[tensor.name], tensor.row_axis, 0)[:rows] = np.moveaxis(
                results[tensor.name], tensor.row_axis, 0
            )

    def close(self) -> None:
        pass


def rowwise_network(spec: EngineSpec) -> Network:
    """The network of a component, with the tensors that `interface_of` names; it takes any number of rows."""
    model = spec.model
    match spec.component:
        case Component.TEXT_ENCODER:
            return lambda inputs: {"context": _contexts(inputs["input_ids"], model.context_width)[np.newaxis]}
        case Component.DENOISER:
            return lambda inputs: {"noise_pred": _rows(_noise, inputs["sample"], inputs["timestep"], inputs["context"])}
        case Component.VAE_DECODER:
            return lambda inputs: {"pixels": _rows(lambda one: _picture(one, model.latent_scale), inputs["latent"])}
        case Component.VAE_ENCODER:
            scale, channels = model.latent_scale, model.latent_channels
            return lambda inputs: {"latent": _rows(lambda one: _latent(one, scale, channels), inputs["pixels"])}


def _rows(function: Any, *inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Row by row, for sums over an array of rows may round with their number."""
    return np.stack([function(*row) for row in zip(*inputs, strict=True)]).astype(np.float32)


def _contexts(tokens: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """A wave for every token and place: int64 [rows, tokens] to float32 [rows, tokens, width]."""
    pitch = np.arange(1, width + 1) / width
    place = np.arange(tokens.shape[1])
    return np.sin(tokens[:, :, np.newaxis] * pitch + place[:, np.newaxis]).astype(np.float32)


def _noise(sample: NDArray[Any], timestep: NDArray[Any], context: NDArray[Any]) -> NDArray[Any]:
    """Bounded, like true noise. The context counts by its mean, which is the same when it is repeated."""
    said = np.resize(context.mean(axis=0, dtype=np.float64), sample.shape)
    noise: NDArray[Any] = np.tanh(0.5 * sample + 4.0 * said + np.cos(float(timestep) / 300.0))
    return noise


def _picture(latent: NDArray[Any], scale: int) -> NDArray[Any]:
    """Float [channels, height, width] to [3, height * scale, width * scale] in -1..1."""
    colours = np.stack([np.sin(latent.sum(axis=0) + latent[colour % len(latent)]) for colour in range(3)])
    return colours.repeat(scale, axis=1).repeat(scale, axis=2)


def _latent(pixels: NDArray[Any], scale: int, channels: int) -> NDArray[Any]:
    """Means of blocks of pixels; channels past the third repeat the colours."""
    colours, height, width = pixels.shape
    means = pixels.reshape(colours, height // scale, scale, width // scale, scale).mean(axis=(2, 4))
    return np.stack([means[channel % colours] for channel in range(channels)])
