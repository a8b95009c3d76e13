"""Networks that cost next to nothing and still depend on everything they are given: what makes a wrong picture seen.

Nothing is learned here. Every row of an output is a function of the same row of the inputs, so that a job's picture
says whether its prompt, its noise and its place in a batch were its own, whoever it shared the batch with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network
from trt_engines.model import Component

ROWWISE = "rowwise"


def rowwise_backend(device: HostComputingDevice | None = None) -> OnDeviceBackend:
    """The backend that computes with NumPy, from no weights. Args: device: where tensors are; None: the processor."""
    return OnDeviceBackend(ROWWISE, NetworkSource(rowwise_network, device))


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
