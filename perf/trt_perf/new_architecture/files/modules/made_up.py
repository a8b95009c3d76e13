"""Made Up's networks: a few layers each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trt_engines.architectures.registry import architecture
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec

PATCH = 4


class Text(LibraryModule):
    """input_ids [rows, 77] -> context [rows, 77, width] and pooled [rows, width], their mean."""

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.model.tokens(input_ids)
        return states, states.mean(dim=1)


class Denoiser(LibraryModule):
    """The velocity of a latent [rows, 8, h, w]."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        context: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        model = self.model
        ones = torch.ones_like(pooled)
        told = model.text(context.mean(dim=1)) + model.pooled(pooled)
        told = told + model.time(ones * timestep.to(ones.dtype)[:, None]) + model.guidance(ones * guidance[:, None] / 8)
        predicted: torch.Tensor = model.conv_out(functional.silu(model.conv_in(sample) + told[:, :, None, None]))
        return predicted


class Decoder(LibraryModule):
    """latent [rows, 8, h, w] -> pixels [rows, 3, 4h, 4w]."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(self.model.decoder(latent), PATCH).tanh()


class Encoder(LibraryModule):
    """pixels [rows, 3, h, w] -> latent [rows, 8, h/4, w/4]."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self.model.encoder(functional.pixel_unshuffle(pixels, PATCH))
        return latent


def make_text(config: Mapping[str, Any]) -> nn.Module:
    """The text encoder."""
    return Text(nn.ModuleDict({"tokens": nn.Embedding(49408, config["width"])})).eval()


def make_denoiser(config: Mapping[str, Any]) -> nn.Module:
    """The denoiser."""
    width = config["width"]
    layers = {name: nn.Linear(width, width) for name in ("text", "pooled", "time", "guidance")}
    convolutions = {"conv_in": nn.Conv2d(8, width, 3, padding=1), "conv_out": nn.Conv2d(width, 8, 3, padding=1)}
    return Denoiser(nn.ModuleDict({**convolutions, **layers})).eval()


def make_decoder(config: Mapping[str, Any]) -> nn.Module:
    """The half that gives pixels."""
    return Decoder(nn.ModuleDict({"decoder": nn.Conv2d(8, 3 * PATCH**2, 3, padding=1)})).eval()


def make_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The half that takes pixels."""
    return Encoder(nn.ModuleDict({"encoder": nn.Conv2d(3 * PATCH**2, 8, 3, padding=1)})).eval()


_CONFIG = {"width": 16}
_MAKERS = {
    "text_encoder": make_text,
    "denoiser": make_denoiser,
    "vae_decoder": make_decoder,
    "vae_encoder": make_encoder,
}

MODULES = {
    "made_up": tuple(
        ModuleSpec(network=architecture("made_up").network(name), make=make, config=_CONFIG, small_config=_CONFIG)
        for name, make in _MAKERS.items()
    )
}
