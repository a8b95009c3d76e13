"""One network of an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trt_engines.architectures.axis import Axis, Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Tensor


class Role(StrEnum):
    """When a network runs in a job."""

    TEXT_ENCODER = "text encoder"  # once, on the prompt
    DENOISER = "denoiser"  # at every step
    AUTOENCODER = "autoencoder"  # once an image, on the way into latents or out of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network of an architecture."""

    name: str  # "text_encoder", "text_encoder_2", "denoiser", "vae_decoder", "vae_encoder"
    role: Role
    ports: Ports
    folders: tuple[str, ...]  # of its weights in a model's folder: diffusers' name, then ComfyUI's
    parameters: int  # weights of the full size
    cost: Cost
    precisions: tuple[str, ...] = ("float16", "bfloat16", "float32")  # best first; see each entry for why one is absent

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes, in the order in which its module takes it."""
        return self.ports.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives, in the order in which its module gives it."""
        return self.ports.outputs

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The dynamic axes of its inputs, one for every place they stand in."""
        return tuple(axis for tensor in self.inputs for axis in tensor.axes)

    def sees(self, quantity: Quantity) -> bool:
        """Whether an input follows a quantity."""
        return any(axis.quantity is quantity for axis in self.axes)
