"""What an architecture is: its networks, their tensors, and what one evaluation costs. Data, no decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Quantity(StrEnum):
    """What a dynamic axis follows when a bucket is chosen."""

    ROWS = "rows"
    WIDTH = "width"  # pixels
    HEIGHT = "height"  # pixels
    TOKENS = "tokens"  # text tokens of a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A named dynamic axis: its size in a bucket is `quantity / unit`, rounded up to a multiple of `multiple`."""

    name: str
    quantity: Quantity
    unit: int | Fraction = 1  # pixels (or tokens) per element
    multiple: int = 1  # in elements: what the network's own down-sampling or packing asks for
    least: int = 1  # elements: the network does not take fewer

    def elements(self, size: int) -> int:
        """Its size in a bucket. Args: size: the bucket's, in pixels, rows or tokens."""
        return self.multiple * math.ceil(Fraction(size) / (self.unit * self.multiple))

    @property
    def step(self) -> int:
        """What sizes must be multiples of; 1 where an element is no whole number of pixels, so that all are rounded."""
        step = Fraction(self.unit) * self.multiple
        return step.numerator if step.denominator == 1 else 1


ROWS = Axis(name="rows", quantity=Quantity.ROWS)
TOKENS = Axis(name="tokens", quantity=Quantity.TOKENS)


class Kind(StrEnum):
    """What a tensor's values are; a build chooses the type of the real ones."""

    REAL = "real"  # the component's compute type: float32, float16 or bfloat16
    FLOAT32 = "float32"  # float32 at any precision: timesteps, time ids
    INT64 = "int64"
    BOOL = "bool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output by name; `shape` mixes fixed sizes and dynamic axes, rows first unless stated."""

    name: str
    shape: tuple[int | Axis, ...]
    kind: Kind = Kind.REAL

    def at(self, sizes: Mapping[Quantity, int]) -> tuple[int, ...]:
        """The shape in a bucket: pixels, rows and tokens to elements."""
        return tuple(part.elements(sizes[part.quantity]) if isinstance(part, Axis) else part for part in self.shape)


class Role(StrEnum):
    """When a network runs in a job."""

    TEXT_ENCODER = "text encoder"  # once, on the prompt
    DENOISER = "denoiser"  # at every step
    AUTOENCODER = "autoencoder"  # once an image, on the way into latents or out of them


CONTEXT_MASK = Tensor(name="context_mask", shape=(ROWS, TOKENS), kind=Kind.BOOL)
"""Text tokens that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one evaluation of one row costs: polynomials in image cells and text tokens.

    An image cell is one position of the network's coarsest *input* grid (a latent position, or a packed 2x2 patch).

    FLOPs = fixed + per_cell * cells + per_cell_squared * cells^2 + per_token * tokens + per_cell_token * cells * tokens
    + per_token_squared * tokens^2, a multiply-add counting as two.

    Exact where every level of the network divides the sides. Where they are rounded up on the way down, a U-Net
    computes more: 1 to 2 % at 1080 x 720 pixels, 4 to 7 % at 520 x 520, 10 to 13 % at 264 x 264. That is not counted.
    """

    cell: float  # pixels along one side of an image cell; 0: the network sees no image
    fixed: float = 0.0
    per_cell: float = 0.0
    per_cell_squared: float = 0.0
    per_token: float = 0.0
    per_cell_token: float = 0.0
    per_token_squared: float = 0.0
    activation_bytes_per_cell: float = 0.0  # at two bytes a value: the most that is alive at once
    activation_bytes_per_token: float = 0.0

    def flops(self, *, width: int, height: int, tokens: int) -> float:
        """FLOPs of one row.

        Args: width, height: pixels. tokens: text tokens.
        """
        cells = width * height / self.cell**2 if self.cell else 0.0
        return (
            self.fixed
            + self.per_cell * cells
            + self.per_cell_squared * cells**2
            + self.per_token * tokens
            + self.per_cell_token * cells * tokens
            + self.per_token_squared * tokens**2
        )

    def activation_bytes(self, *, width: int, height: int, tokens: int) -> float:
        """Bytes of activations of one row at two bytes a value."""
        cells = width * height / self.cell**2 if self.cell else 0.0
        return self.activation_bytes_per_cell * cells + self.activation_bytes_per_token * tokens


Ports = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Inputs and outputs of a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One network of an architecture.

    `make` builds the module that is exported from a configuration (`config`, or `small_config` for tests): its
    `forward` takes the inputs positionally, in the order of `inputs`, and returns one tensor, or a tuple in the order
    of `outputs`. It is called under any default device and type (meta, fake tensors), so it must not look at values.
    The network that carries the weights is its attribute `model`: parameter names are `model.` plus the library's own.
    """

    name: str  # "text_encoder", "text_encoder_2", "denoiser", "vae_decoder", "vae_encoder"
    make: Callable[[Mapping[str, Any]], nn.Module]
    config: Mapping[str, Any]
    small_config: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int  # weights of the full size
    cost: Cost
    precisions: tuple[str, ...] = ("float16", "bfloat16", "float32")  # best first; see each entry for why one is absent
    guided: bool = True  # of a denoiser: it runs rows for the negative prompt, where the family does at all
    tensors: Callable[[Mapping[str, Any]], Ports] | None = None
    """Inputs and outputs of a configuration, where its widths show in them; None: they are the same for all."""
    lacking: tuple[str, Mapping[str, Any]] | None = None
    """A weight that some published files lack, by the library's name, and what a configuration without it changes;
    None: all have the same weights."""

    def configured(self, config: Mapping[str, Any]) -> ComponentSpec:
        """The same network of another configuration, such as a smaller model of the family."""
        inputs, outputs = self.tensors(config) if self.tensors else (self.inputs, self.outputs)
        return replace(self, config=config, inputs=inputs, outputs=outputs)

    @property
    def role(self) -> Role:
        """When it runs, by what it takes: what sees no picture reads the prompt, what takes a timestep denoises."""
        if not self.sees(Quantity.WIDTH):
            return Role.TEXT_ENCODER
        return Role.DENOISER if any(one.name == "timestep" for one in self.inputs) else Role.AUTOENCODER

    @property
    def small(self) -> ComponentSpec:
        """The network for tests."""
        return self.configured(self.small_config)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The dynamic axes of its inputs, one for every place they stand in."""
        return tuple(part for tensor in self.inputs for part in tensor.shape if isinstance(part, Axis))

    def sees(self, quantity: Quantity) -> bool:
        """Whether an input follows a quantity."""
        return any(axis.quantity is quantity for axis in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A family of checkpoints that share their graphs."""

    name: str  # "stable_diffusion_1", "sdxl", "flux_dev", ...
    title: str  # as people write it: "Stable Diffusion 1.5"
    prediction: str  # "epsilon", "v_prediction" or "flow"
    latent_channels: int
    latent_scale: int | Fraction  # pixels per latent position and axis, rounded up
    native_pixels: int  # pixels of one picture the family was trained for, as in 512 * 512
    tokens: tuple[int, ...]  # lengths of text that buckets are made for, shortest first
    components: tuple[ComponentSpec, ...]
    timesteps: int = 1000  # the networks' time runs from 0 to this: steps of training, or 1 where it is a ratio
    guidance_rows: int = 2  # denoiser rows of one image: 2 with classifier-free guidance, 1 for distilled models
    notes: Mapping[str, str] = field(default_factory=dict)  # facts a reader needs: sources of numbers, traps

    def component(self, name: str) -> ComponentSpec:
        """The network called `name`.

        Raises: KeyError: there is none.
        """
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(f"{self.name} has no component {name!r}; it has {', '.join(c.name for c in self.components)}")

    @property
    def denoisers(self) -> tuple[ComponentSpec, ...]:
        """The networks that are stepped, in the order in which a picture goes through them."""
        return tuple(component for component in self.components if component.role is Role.DENOISER)
