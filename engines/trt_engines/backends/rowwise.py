"""Networks that cost next to nothing and still depend on everything they are given: what makes a wrong picture seen.

Nothing is learned here. Every row of an output is a function of the same row of the inputs, so that a job's picture
says whether its prompt, its noise and its place in a batch were its own, whoever it shared the batch with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.feed import Feed
from trt_engines.architectures.network import Role
from trt_engines.architectures.tensor import Kind
from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network
from trt_engines.interface import TensorSpec

ROWWISE = "rowwise"


def rowwise_backend(device: HostComputingDevice | None = None) -> OnDeviceBackend:
    """The backend that computes with NumPy, from no weights. Args: device: where tensors are; None: the processor."""
    return OnDeviceBackend(ROWWISE, NetworkSource(rowwise_network, device))


def rowwise_network(spec: EngineSpec) -> Network:
    """A network with the tensors of its architecture; it takes any number of rows."""
    ports, outputs = spec.ports, spec.interface.outputs
    match spec.model.facts.network(spec.network).role:
        case Role.TEXT_ENCODER:
            ids = ports.fed(Feed.IDS).name
            return lambda inputs: {one.name: _encoded(inputs[ids], one) for one in outputs}
        case Role.DENOISER:
            sample, time = ports.fed(Feed.STATE).name, ports.fed(Feed.TIME).name
            said = [one.name for one in ports.inputs if one.kind is not Kind.BOOL and one.name not in {sample, time}]
            (noise,) = outputs
            return lambda inputs: {
                noise.name: _rows(_noise, inputs[sample], inputs[time], *(inputs[name] for name in said))
            }
        case Role.AUTOENCODER:
            (taken,), (given,) = spec.interface.inputs, outputs
            make = _picture if ports.inputs[0].feed is Feed.LATENT else _latent
            return lambda inputs: {given.name: _rows(lambda one: make(one, taken, given), inputs[taken.name])}


def _rows(function: Any, *inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Row by row, for sums over an array of rows may round with their number."""
    return np.stack([function(*row) for row in zip(*inputs, strict=True)]).astype(np.float32)


def _encoded(tokens: NDArray[np.int64], output: TensorSpec) -> NDArray[np.float32]:
    """What a text encoder gives of int64 [rows, tokens]: a wave for every token and place, the same in each layer;
    where there is one value for a whole prompt, their mean."""
    width = output.shape[-1]
    pitch = np.arange(1, width + 1) / width
    place = np.arange(tokens.shape[1])
    states = np.sin(tokens[:, :, np.newaxis] * pitch + place[:, np.newaxis]).astype(np.float32)
    if len(output.shape) == 2:
        mean: NDArray[np.float32] = states.mean(axis=1)
        return mean
    return np.broadcast_to(states, (*output.shape[: output.row_axis], *states.shape))


def _noise(sample: NDArray[Any], time: NDArray[Any], *others: NDArray[Any]) -> NDArray[Any]:
    """Bounded, like true noise. What has a value for each token counts by its mean, which is the same when it is
    repeated."""
    said = np.zeros(sample.shape)
    for number, values in enumerate(others, start=1):
        told = values.mean(axis=0, dtype=np.float64) if values.ndim == 2 else values.astype(np.float64)
        said += np.resize(np.tanh(told / number), sample.shape)
    noise: NDArray[Any] = np.tanh(0.5 * sample + 4.0 * said + np.cos(float(time) / 300.0))
    return noise


def _scale(latent: TensorSpec, pixels: TensorSpec) -> int:
    """Pixels along one side of a latent's position."""
    return pixels.shape[-1] // latent.shape[-1]


def _picture(latent: NDArray[Any], taken: TensorSpec, given: TensorSpec) -> NDArray[Any]:
    """Float [channels, height, width] to [3, height * scale, width * scale] in -1..1."""
    scale = _scale(taken, given)
    colours = np.stack([np.sin(latent.sum(axis=0) + latent[colour % len(latent)]) for colour in range(3)])
    return colours.repeat(scale, axis=1).repeat(scale, axis=2)


def _latent(pixels: NDArray[Any], taken: TensorSpec, given: TensorSpec) -> NDArray[Any]:
    """Means of blocks of pixels; channels past the third repeat the colours."""
    scale, (_, channels, *_) = _scale(given, taken), given.shape
    colours, height, width = pixels.shape
    means = pixels.reshape(colours, height // scale, scale, width // scale, scale).mean(axis=(2, 4))
    return np.stack([means[channel % colours] for channel in range(channels)])
