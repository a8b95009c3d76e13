"""Stable Cascade: stage C makes a small latent of the text, stage B a large one of that, stage A pixels of it.

Sources: modules/ and inference/utils.py of Stability-AI/StableCascade; diffusers' pipelines and its
scripts/convert_stable_cascade.py for the configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableCascadeUNet
from diffusers.models.unets.unet_stable_cascade import (
    SDCascadeAttnBlock,
    SDCascadeResBlock,
    SDCascadeTimestepBlock,
)
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from torch import nn
from torch.nn import functional

from trt_engines.architectures import stable_cascade as facts
from trt_engines.architectures.ports import Ports
from trt_engines.modules.efficientnet import EFFICIENTNET_V2_S, SMALL_EFFICIENTNET, make_encoder
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.text_encoders import OPEN_CLIP_BIGG_LAST

STAGE_C_CHANNELS, STAGE_B_CHANNELS = facts.STAGE_C_LATENT.channels, facts.STAGE_B_LATENT.channels


class CascadeDenoiser(LibraryModule):
    """What both stages have in common: embedded times, and layers that engines can compute in half precision."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for block in [one for one in model.modules() if isinstance(one, SDCascadeResBlock)]:
            block.channelwise[2] = ResponseNorm(block.channelwise[2])
        for upscaler in model.up_upscalers:
            if isinstance(upscaler, nn.Sequential) and isinstance(upscaler[1], nn.ConvTranspose2d):
                upscaler[1] = Doubling(upscaler[1])

    def times(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What modulates every level: the time, and the further conditions, which are zero: [rows, width]."""
        conditions = len(self.model.config.timestep_conditioning_type)
        numbers = [timestep, *[torch.zeros_like(timestep)] * conditions]
        return torch.cat([self.model.get_timestep_ratio_embedding(one) for one in numbers], dim=1).to(dtype)

    def predicted(self, states: torch.Tensor, times: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
        """The levels down and up again, and the last layer."""
        outputs = self.model._down_encode(states, times, clip)
        predicted: torch.Tensor = self.model.clf(self._up(outputs, times, clip))
        return predicted

    def _up(self, outputs: list[torch.Tensor], times: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
        """The levels up, as the library goes, for latents of any size.

        A level of n positions has floor(n / 2) below it. The library brings what comes up to the size of what was kept
        on the way down where the two differ; one graph serves all sizes, so here it is always done where levels have
        sizes of their own. Without a difference it changes nothing.

        Args: outputs: of the levels, the lowest first.
        """
        model, states = self.model, outputs[0]
        extra = {SDCascadeTimestepBlock: times, SDCascadeAttnBlock: clip}
        halved = model.config.switch_level is None
        for kept, blocks, upscaler, mappers in zip(
            outputs, model.up_blocks, model.up_upscalers, model.up_repeat_mappers, strict=True
        ):
            lowest = kept is outputs[0]
            if halved and not lowest:
                size = kept.shape[-2:]
                resized = functional.interpolate(states.float(), size, mode="bilinear", align_corners=True)
                states = resized.to(states.dtype)
            for mapper in (*mappers, nn.Identity()):
                for number, block in enumerate(blocks):
                    if isinstance(block, SDCascadeResBlock):
                        states = block(states, None if lowest or number else kept)
                    else:
                        states = block(states, extra[type(block)])
                states = mapper(states)
            states = upscaler(states)
        return states


class ResponseNorm(nn.Module):
    """The library's `GlobalResponseNorm`, whose sum of squares over a whole picture is of float32 here."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.gamma, self.beta = norm.gamma, norm.beta

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Args: states [rows, h, w, channels]."""
        norm = torch.linalg.vector_norm(states, dim=(1, 2), keepdim=True, dtype=torch.float32)
        share = (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)).to(states.dtype)
        return self.gamma * (states * share) + self.beta + states


class Doubling(nn.Module):
    """A transposed convolution of stride 2 and as small a kernel, as a matrix product and a pixel shuffle.

    The same numbers: its windows do not overlap. TensorRT-RTX 1.7 compiles no transposed convolution in bfloat16.
    """

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Args: states [rows, channels, h, w]. Returns: [rows, less, 2h, 2w]."""
        patches = (states.permute(0, 2, 3, 1) @ self.weight.flatten(1)).permute(0, 3, 1, 2)
        return functional.pixel_shuffle(patches, 2) + self.bias[:, None, None]


class StageC(CascadeDenoiser):
    """Noise in the small latent.

    sample [rows, 16, h, w], timestep [rows] in 0..1 (1 is noise), context [rows, tokens, 1280], pooled [rows, 1280]
    -> noise_pred [rows, 16, h, w]. No picture is looked at: its embedding is zeros.
    """

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        picture = pooled.new_zeros(pooled.shape[0], 1, model.config.clip_image_in_channels)
        clip = model.get_clip_embeddings(pooled.unsqueeze(1), context, picture)
        return self.predicted(model.embedding(sample), self.times(timestep, sample.dtype), clip)


class StageB(CascadeDenoiser):
    """Noise in the large latent.

    sample [rows, 4, h, w], timestep [rows] in 0..1 (1 is noise), effnet [rows, 16, h', w'], which is stage C's result
    or zeros for the negative prompt, pooled [rows, 1280] -> noise_pred [rows, 4, h, w].
    """

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, effnet: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        model = self.model
        clip = model.get_clip_embeddings(pooled.unsqueeze(1))
        states = model.embedding(sample)
        effnet = functional.interpolate(effnet, size=states.shape[2:], mode="bilinear", align_corners=True)
        black = model.pixels_mapper(sample.new_zeros(1, 3, 1, 1))  # the library's small picture, everywhere the same
        states = states + model.effnet_mapper(effnet) + black
        return self.predicted(states, self.times(timestep, sample.dtype), clip)


class StageADecoder(LibraryModule):
    """latent [rows, 4, h, w] -> pixels [rows, 3, 4h, 4w] in -1..1."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.model.decode(latent * self.model.config.scale_factor, return_dict=False)[0]
        return pixels * 2 - 1


class StageAEncoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, 4, h/4, w/4], not quantized."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self.model.encode(pixels / 2 + 0.5, return_dict=False)[0]
        return latent / self.model.config.scale_factor


def make_stage_c(config: Mapping[str, Any]) -> nn.Module:
    """Stage C of a configuration of `StableCascadeUNet`."""
    return StageC(StableCascadeUNet(**config)).eval()


def make_stage_b(config: Mapping[str, Any]) -> nn.Module:
    """Stage B of a configuration of `StableCascadeUNet`."""
    return StageB(StableCascadeUNet(**config)).eval()


def make_stage_a_decoder(config: Mapping[str, Any]) -> nn.Module:
    """The decoder of a configuration of `PaellaVQModel`."""
    return StageADecoder(_without(PaellaVQModel(**config), "in_block", "down_blocks", "vquantizer")).eval()


def make_stage_a_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration of `PaellaVQModel`."""
    return StageAEncoder(_without(PaellaVQModel(**config), "up_blocks", "out_block", "vquantizer")).eval()


def _without(model: Any, *parts: str) -> Any:
    for part in parts:
        setattr(model, part, None)
    return model


def _stage_c_ports(config: Mapping[str, Any]) -> Ports:
    return facts.stage_c_ports(config["clip_text_in_channels"], config["clip_text_pooled_in_channels"])


def _stage_b_ports(config: Mapping[str, Any]) -> Ports:
    return facts.stage_b_ports(config["clip_text_pooled_in_channels"], config["patch_size"])


_CONVOLVED = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
_ATTENDED = (*_CONVOLVED, "SDCascadeAttnBlock")

_STAGE_C: dict[str, Any] = {
    "block_out_channels": (2048, 2048),
    "block_types_per_layer": (_ATTENDED, _ATTENDED),
    "clip_text_in_channels": 1280,
    "clip_text_pooled_in_channels": 1280,
    "clip_image_in_channels": 768,
    "switch_level": (False,),  # both levels are of one size
}
_SMALL_STAGE_C: dict[str, Any] = _STAGE_C | {
    "block_out_channels": (32, 32),
    "num_attention_heads": (4, 4),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "timestep_ratio_embedding_dim": 16,
    "conditioning_dim": 32,
    "clip_text_in_channels": 32,
    "clip_text_pooled_in_channels": 32,
    "clip_image_in_channels": 16,
}
_STAGE_B: dict[str, Any] = {
    "in_channels": STAGE_B_CHANNELS,
    "out_channels": STAGE_B_CHANNELS,
    "patch_size": 2,
    "conditioning_dim": 1280,
    "block_out_channels": (320, 640, 1280, 1280),
    "num_attention_heads": (0, 0, 20, 20),
    "down_num_layers_per_block": (2, 6, 28, 6),
    "up_num_layers_per_block": (6, 28, 6, 2),
    "down_blocks_repeat_mappers": (1, 1, 1, 1),
    "up_blocks_repeat_mappers": (3, 3, 2, 2),
    "block_types_per_layer": (_CONVOLVED, _CONVOLVED, _ATTENDED, _ATTENDED),
    "clip_text_pooled_in_channels": 1280,
    "effnet_in_channels": STAGE_C_CHANNELS,
    "pixel_mapper_in_channels": 3,
    "dropout": (0, 0, 0.1, 0.1),
    "timestep_conditioning_type": ("sca",),
}
_SMALL_STAGE_B: dict[str, Any] = _STAGE_B | {
    "conditioning_dim": 32,
    "block_out_channels": (16, 32),
    "num_attention_heads": (0, 4),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "down_blocks_repeat_mappers": (1, 1),
    "up_blocks_repeat_mappers": (2, 2),
    "block_types_per_layer": (_CONVOLVED, _ATTENDED),
    "timestep_ratio_embedding_dim": 16,
    "clip_text_pooled_in_channels": 32,
    "dropout": (0, 0),
}
_STAGE_A: dict[str, Any] = {"scale_factor": 0.43}
_SMALL_STAGE_A: dict[str, Any] = _STAGE_A | {"bottleneck_blocks": 2, "embed_dim": 16}


STAGE_C = ModuleSpec(
    network=facts.STAGE_C, make=make_stage_c, config=_STAGE_C, small_config=_SMALL_STAGE_C, ports=_stage_c_ports
)
STAGE_B = ModuleSpec(
    network=facts.STAGE_B, make=make_stage_b, config=_STAGE_B, small_config=_SMALL_STAGE_B, ports=_stage_b_ports
)
STAGE_A_DECODER = ModuleSpec(
    network=facts.STAGE_A_DECODER, make=make_stage_a_decoder, config=_STAGE_A, small_config=_SMALL_STAGE_A
)
STAGE_A_ENCODER = ModuleSpec(
    network=facts.STAGE_A_ENCODER, make=make_stage_a_encoder, config=_STAGE_A, small_config=_SMALL_STAGE_A
)
EFFNET_ENCODER = ModuleSpec(
    network=facts.EFFNET_ENCODER, make=make_encoder, config=EFFICIENTNET_V2_S, small_config=SMALL_EFFICIENTNET
)

MODULES = {
    "stable_cascade": (
        OPEN_CLIP_BIGG_LAST,
        STAGE_C,
        STAGE_B,
        STAGE_A_DECODER,
        STAGE_A_ENCODER,
        EFFNET_ENCODER,
    )
}
