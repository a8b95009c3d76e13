"""Stable Cascade: stage C makes a small latent of the text, stage B a large one of that, stage A pixels of it.

Sources: modules/ and inference/utils.py of Stability-AI/StableCascade; diffusers' pipelines and its
scripts/convert_stable_cascade.py for the configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
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

from trt_export.modules.architecture import (
    ROWS,
    TOKENS,
    Architecture,
    Axis,
    ComponentSpec,
    Cost,
    Kind,
    Ports,
    Quantity,
    Tensor,
)
from trt_export.modules.efficientnet import EFFICIENTNET_V2_S, SMALL_EFFICIENTNET, make_encoder
from trt_export.modules.library_module import LibraryModule
from trt_export.modules.text_encoders import OPEN_CLIP_BIGG_LAST

STAGE_C_SCALE = Fraction(128, 3)
"""Pixels per position of stage C's latent: 24 for 1024. The library writes 42.67 and rounds up, as an axis does."""

STAGE_B_SCALE = 4
STAGE_C_CHANNELS, STAGE_B_CHANNELS = 16, 4
EFFNET_SCALE = 32
"""Pixels per position of what the image encoder makes: pictures are scaled to fit stage C's latent before."""


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


def _sides(prefix: str, unit: int | Fraction, multiple: int = 1) -> tuple[Axis, Axis]:
    """Height and width."""
    return (
        Axis(name=f"{prefix}height", quantity=Quantity.HEIGHT, unit=unit, multiple=multiple),
        Axis(name=f"{prefix}width", quantity=Quantity.WIDTH, unit=unit, multiple=multiple),
    )


_TIMESTEP = Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32)


def _stage_c_tensors(config: Mapping[str, Any]) -> Ports:
    latent = (ROWS, STAGE_C_CHANNELS, *_sides("", STAGE_C_SCALE))
    inputs = (
        Tensor(name="sample", shape=latent),
        _TIMESTEP,
        Tensor(name="context", shape=(ROWS, TOKENS, config["clip_text_in_channels"])),
        Tensor(name="pooled", shape=(ROWS, config["clip_text_pooled_in_channels"])),
    )
    return inputs, (Tensor(name="noise_pred", shape=latent),)


def _stage_b_tensors(config: Mapping[str, Any]) -> Ports:
    latent = (ROWS, STAGE_B_CHANNELS, *_sides("", STAGE_B_SCALE, config["patch_size"]))
    inputs = (
        Tensor(name="sample", shape=latent),
        _TIMESTEP,
        Tensor(name="effnet", shape=(ROWS, STAGE_C_CHANNELS, *_sides("effnet_", STAGE_C_SCALE))),
        Tensor(name="pooled", shape=(ROWS, config["clip_text_pooled_in_channels"])),
    )
    return inputs, (Tensor(name="noise_pred", shape=latent),)


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


def _denoiser(
    name: str, make: Any, tensors: Any, config: Mapping[str, Any], small: Mapping[str, Any], **more: Any
) -> ComponentSpec:
    inputs, outputs = tensors(config)
    return ComponentSpec(
        name=name,
        make=make,
        config=config,
        small_config=small,
        inputs=inputs,
        outputs=outputs,
        tensors=tensors,
        **more,
    )


STAGE_C = _denoiser(
    "denoiser",
    make_stage_c,
    _stage_c_tensors,
    _STAGE_C,
    _SMALL_STAGE_C,
    parameters=3_589_103_632,
    cost=Cost(
        cell=float(STAGE_C_SCALE),
        fixed=13_019_119_616.0,
        per_cell=6_499_467_264.0,
        per_cell_squared=524_288.0,
        per_token=1_615_855_616.0,
        per_cell_token=524_288.0,
        activation_bytes_per_cell=74_618.0,
        activation_bytes_per_token=6_656.0,
    ),
    precisions=("bfloat16", "float32"),  # its residual stream passes half precision's largest value: black pictures
)
STAGE_B = _denoiser(
    "denoiser_stage_b",
    make_stage_b,
    _stage_b_tensors,
    _STAGE_B,
    _SMALL_STAGE_B,
    parameters=1_562_941_136,
    cost=Cost(
        cell=8,
        fixed=5_457_681_920.0,
        per_cell=339_310_400.0,
        per_cell_squared=2_270.0,
        activation_bytes_per_cell=11_433.0,
    ),
    precisions=("bfloat16", "float16", "float32"),  # published in bfloat16; the library's example runs it in half
    guided=False,
)

_LATENT = Tensor(name="latent", shape=(ROWS, STAGE_B_CHANNELS, *_sides("", STAGE_B_SCALE)))
_PIXELS = Tensor(name="pixels", shape=(ROWS, 3, *_sides("pixel_", 1, STAGE_B_SCALE)))
STAGE_A_DECODER = ComponentSpec(
    name="vae_decoder",
    make=make_stage_a_decoder,
    config=_STAGE_A,
    small_config=_SMALL_STAGE_A,
    inputs=(_LATENT,),
    outputs=(_PIXELS,),
    parameters=15_706_842,
    cost=Cost(cell=STAGE_B_SCALE, per_cell=33_148_416.0, activation_bytes_per_cell=16_904.0),
    precisions=("float16", "float32"),  # of bfloat16 TensorRT-RTX 1.7 compiles no transposed convolution
)
STAGE_A_ENCODER = ComponentSpec(
    name="vae_encoder",
    make=make_stage_a_encoder,
    config=_STAGE_A,
    small_config=_SMALL_STAGE_A,
    inputs=(_PIXELS,),
    outputs=(_LATENT,),
    parameters=2_667_284,
    cost=Cost(cell=STAGE_B_SCALE, per_cell=7_120_128.0, activation_bytes_per_cell=16_992.0),
)
EFFNET_ENCODER = ComponentSpec(
    name="effnet_encoder",
    make=make_encoder,
    config=EFFICIENTNET_V2_S,
    small_config=SMALL_EFFICIENTNET,
    inputs=(Tensor(name="pixels", shape=(ROWS, 3, *_sides("pixel_", STAGE_C_SCALE / EFFNET_SCALE, EFFNET_SCALE))),),
    outputs=(Tensor(name="latent", shape=(ROWS, STAGE_C_CHANNELS, *_sides("", STAGE_C_SCALE))),),
    parameters=20_197_968,
    cost=Cost(cell=float(STAGE_C_SCALE), fixed=7_329_792.0, per_cell=116_161_408.0, activation_bytes_per_cell=73_731.0),
    precisions=("bfloat16", "float32"),  # nobody runs it in half precision
)

STABLE_CASCADE = Architecture(
    name="stable_cascade",
    title="Stable Cascade",
    prediction="epsilon",
    latent_channels=STAGE_C_CHANNELS,
    latent_scale=STAGE_C_SCALE,
    native_pixels=1024 * 1024,
    tokens=(77, 154, 231),
    timesteps=1,
    components=(OPEN_CLIP_BIGG_LAST, STAGE_C, STAGE_B, STAGE_A_DECODER, STAGE_A_ENCODER, EFFNET_ENCODER),
    notes={
        "stages": "stage C runs two rows for a guided picture and about two thirds of the steps, stage B one row and"
        " the rest; stage B's effnet input is stage C's result",
        "sizes": "the engines' latents are ceil(pixels * 3 / 128) for stage C, as in the library, and pixels / 4 for"
        " stage B; ComfyUI divides by 42 and rounds down, which is one position less for some sizes, and by 32 in its"
        " two-pass graph, which is up to a third more",
        "image to image": "effnet_encoder takes the picture scaled to 32 pixels per position of stage C's latent;"
        " vae_encoder is stage A's, for what starts stage B from a picture",
        "text": "stage C attends to text, pooled text and the latent in one softmax, so that repeating a context to a"
        " common length is not exact, though ComfyUI does it",
    },
)
