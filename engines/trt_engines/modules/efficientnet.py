"""EfficientNetV2-S up to its features, as Stable Cascade encodes pictures: no library here has it.

Source: Tan and Le 2021, arXiv:2104.00298, table 4; names, strides and the norms' epsilon are torchvision's, whose
layout the published weights have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trt_engines.modules.library_module import LibraryModule

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, red, green and blue in 0..1."""


class EfficientNetEncoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, channels, h/32, w/32], each channel whitened."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, deviation = (
            torch.tensor(list(values), dtype=torch.float32, device=pixels.device)[:, None, None]
            for values in (MEAN, DEVIATION)
        )
        normed = ((pixels.float() / 2 + 0.5 - mean) / deviation).to(pixels.dtype)
        latent: torch.Tensor = self.model.mapper(self.model.backbone(normed))
        return latent


class Mapped(nn.Module):
    """A backbone and what maps its features to a latent."""

    def __init__(self, backbone: nn.Module, mapper: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.mapper = mapper


class Block(nn.Module):
    """An inverted bottleneck with a residual connection where its shapes allow one."""

    def __init__(self, layers: list[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.block(states)
        return states + changed if self.residual else changed


class SqueezeExcitation(nn.Module):
    """Weighs channels by what their means say."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        means = states.mean(dim=(2, 3), keepdim=True)
        return states * self.fc2(nn.functional.silu(self.fc1(means))).sigmoid()


def make_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration.

    Args: config: `stem`, the first convolution's width; `stages` of (fused, expansion, stride, width, blocks), where
        fused ones expand with their 3x3 convolution; `features`, the last one's width; and `latent_channels`.
    """
    layers: list[nn.Module] = [_convolution(3, config["stem"], 3, stride=2)]
    width = config["stem"]
    for fused, expansion, stride, wider, blocks in config["stages"]:
        stage = []
        for number in range(blocks):
            stage.append(_block(width, wider, expansion, stride if number == 0 else 1, fused=fused))
            width = wider
        layers.append(nn.Sequential(*stage))
    layers.append(_convolution(width, config["features"], 1))
    mapper = nn.Sequential(
        nn.Conv2d(config["features"], config["latent_channels"], 1, bias=False),
        nn.BatchNorm2d(config["latent_channels"], affine=False),
    )
    return EfficientNetEncoder(Mapped(nn.Sequential(*layers), mapper)).eval()


def _block(width: int, wider: int, expansion: int, stride: int, *, fused: bool) -> Block:
    inner = width * expansion
    if fused and expansion == 1:
        layers = [_convolution(width, wider, 3, stride=stride)]
    elif fused:
        layers = [_convolution(width, inner, 3, stride=stride), _convolution(inner, wider, 1, active=False)]
    else:
        layers = [
            _convolution(width, inner, 1),
            _convolution(inner, inner, 3, stride=stride, groups=inner),
            SqueezeExcitation(inner, width // 4),
            _convolution(inner, wider, 1, active=False),
        ]
    return Block(layers, residual=stride == 1 and width == wider)


def _convolution(
    width: int, wider: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Module:
    convolution = nn.Conv2d(width, wider, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(wider, eps=1e-3)
    return nn.Sequential(convolution, norm, nn.SiLU()) if active else nn.Sequential(convolution, norm)


EFFICIENTNET_V2_S: dict[str, Any] = {
    "stem": 24,
    "stages": (
        (True, 1, 1, 24, 2),
        (True, 4, 2, 48, 4),
        (True, 4, 2, 64, 4),
        (False, 4, 2, 128, 6),
        (False, 6, 1, 160, 9),
        (False, 6, 2, 256, 15),
    ),
    "features": 1280,
    "latent_channels": 16,
}
SMALL_EFFICIENTNET: dict[str, Any] = EFFICIENTNET_V2_S | {
    "stem": 8,
    "stages": ((True, 1, 1, 8, 1), (True, 4, 2, 8, 2), (True, 4, 2, 16, 1), (False, 4, 2, 16, 2), (False, 6, 2, 16, 1)),
    "features": 32,
}
