"""Stable Diffusion 1 and 2 with their inpainting variants, and SDXL: one U-Net in several sizes."""

from __future__ import annotations

from dataclasses import replace

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import (
    SDXL_VAE_DECODER,
    SDXL_VAE_ENCODER,
    STABLE_DIFFUSION_VAE_DECODER,
    STABLE_DIFFUSION_VAE_ENCODER,
)
from trt_engines.architectures.axis import ROWS, TOKENS
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.latent_format import LatentFormat
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, Time
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.architectures.text_encoders import (
    CLIP_L_LAYERS,
    CONTEXT,
    OPEN_CLIP_BIGG,
    OPEN_CLIP_H,
    POOLED,
    clip_encoding,
)

LATENT = LatentFormat(
    channels=4,
    pixels=8,
    # Source: the latent that ComfyUI's model_base.py gives inpainting models where a job has no mask.
    blank=(0.8223, -0.6876, 0.6364, 0.1380),
)
TIME_IDS = 6
"""SDXL's: original height and width, top and left of the crop, target height and width, in pixels."""

TOKENS_OF_CHUNKS = (77, 154, 231)


def unet_ports(context: int) -> Ports:
    """A U-Net's. Args: context: features of a text token."""
    return Ports(
        inputs=(
            LATENT.tensor("sample", Feed.STATE),
            Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32, feed=Feed.TIME),
            Tensor(name="context", shape=(ROWS, TOKENS, context), feed=Feed.TEXT),
        ),
        outputs=(LATENT.tensor("noise_pred"),),
    )


def inpainting_ports(context: int) -> Ports:
    """As `unet_ports`, with the mask and what is under it as inputs of their own: `sample` stays what is stepped."""
    own = unet_ports(context)
    more = (LATENT.tensor("mask", Feed.MASK, channels=1), LATENT.tensor("masked_latent", Feed.MASKED))
    return replace(own, inputs=(*own.inputs, *more))


def sdxl_ports(context: int, pooled: int) -> Ports:
    """As `unet_ports`, with the pooled prompt and the picture's sizes. Args: pooled: features of the pooled prompt."""
    own = unet_ports(context)
    more = (
        Tensor(name="pooled", shape=(ROWS, pooled), feed=Feed.TEXT),
        Tensor(name="time_ids", shape=(ROWS, TIME_IDS), kind=Kind.FLOAT32, feed=Feed.SIZES),
    )
    return replace(own, inputs=(*own.inputs, *more))


def _denoiser(ports: Ports, parameters: int, cost: Cost) -> Network:
    return Network(
        name="denoiser",
        role=Role.DENOISER,
        ports=ports,
        folders=("unet", "diffusion_models"),
        parameters=parameters,
        cost=cost,
    )


_SD1_COST = Cost(
    cell=8,
    fixed=55_705_600.0,
    per_cell=164_602_880.0,
    per_cell_squared=7_301.0,
    per_token=38_338_560.0,
    per_cell_token=11_280.0,
    activation_bytes_per_cell=16_646.0,
    activation_bytes_per_token=1_536.0,
)
_SD2_COST = replace(_SD1_COST, per_token=51_118_080.0, activation_bytes_per_token=2_048.0)
_SDXL_COST = Cost(
    cell=8,
    fixed=49_807_360.0,
    per_cell=361_620_480.0,
    per_cell_squared=2_800.0,
    per_token=681_574_400.0,
    per_cell_token=25_600.0,
    activation_bytes_per_cell=10_097.0,
    activation_bytes_per_token=4_096.0,
)

_SD1_DENOISER = _denoiser(unet_ports(768), 859_520_964, _SD1_COST)
_SD1_PAINTER = _denoiser(inpainting_ports(768), 859_535_364, _SD1_COST)
_SD2_DENOISER = _denoiser(unet_ports(1024), 865_910_724, _SD2_COST)
_SD2_PAINTER = _denoiser(inpainting_ports(1024), 865_925_124, _SD2_COST)
_SDXL_DENOISER = _denoiser(sdxl_ports(2048, 1280), 2_567_463_684, _SDXL_COST)

_SD1_PROMPTING = Prompting(encoders=(clip_encoding(CLIP_L_LAYERS, clip_skip=1),), lengths=Lengths.REPEATED)
# Stable Diffusion 2 and SDXL were trained on the last layer but one, which ComfyUI's loaders take where nothing asks
# for another. Today's workers always ask: for the job's own, which is 1 unless it says otherwise.
_SD2_PROMPTING = Prompting(encoders=(clip_encoding(OPEN_CLIP_H, pad=0, clip_skip=2),), lengths=Lengths.REPEATED)
_SDXL_PROMPTING = Prompting(
    encoders=(  # side by side, 768 + 1280 features, of the same layer
        clip_encoding(CLIP_L_LAYERS, clip_skip=2),
        clip_encoding(OPEN_CLIP_BIGG, {**CONTEXT, **POOLED}, pad=0, clip_skip=2),
    ),
    lengths=Lengths.REPEATED,
)


def _only_pass(prediction: Prediction) -> Pass:
    return Pass(
        denoiser="denoiser",
        latent=LATENT,
        levels=NoiseLevels(prediction=prediction, time=Time.DISCRETE, units=1000),
        guidance=Guidance(kind=GuidanceKind.CLASSIFIER_FREE, default=7.5),  # the Horde's
    )


def _stable_diffusion(
    name: str,
    title: str,
    aliases: tuple[str, ...],
    networks: tuple[Network, ...],
    prompting: Prompting,
    *,
    side: int = 512,
    prediction: Prediction = Prediction.EPSILON,
) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        aliases=aliases,
        networks=networks,
        prompting=prompting,
        passes=(_only_pass(prediction),),
        decoder="vae_decoder",
        encoder="vae_encoder",
        native_side=side,
        size_step=8,
        tokens=TOKENS_OF_CHUNKS,
    )


_VAE = (STABLE_DIFFUSION_VAE_DECODER, STABLE_DIFFUSION_VAE_ENCODER)
_OF_1 = ("stable_diffusion_1", "stable diffusion 1")
_OF_2 = ("stable_diffusion_2", "stable diffusion 2")
"""As the reference lists of the Horde and of AIPG write them; inpainting models are told apart by a mark of theirs."""

STABLE_DIFFUSION_1 = _stable_diffusion(
    "stable_diffusion_1", "Stable Diffusion 1.5", _OF_1, (CLIP_L_LAYERS, _SD1_DENOISER, *_VAE), _SD1_PROMPTING
)
STABLE_DIFFUSION_1_INPAINTING = _stable_diffusion(
    "stable_diffusion_1_inpainting",
    "Stable Diffusion 1.5 Inpainting",
    _OF_1,
    (CLIP_L_LAYERS, _SD1_PAINTER, *_VAE),
    _SD1_PROMPTING,
)
STABLE_DIFFUSION_2 = _stable_diffusion(
    "stable_diffusion_2",
    "Stable Diffusion 2.1 (512)",
    (*_OF_2, "stable_diffusion_2_512"),
    (OPEN_CLIP_H, _SD2_DENOISER, *_VAE),
    _SD2_PROMPTING,
)
STABLE_DIFFUSION_2_V = _stable_diffusion(
    "stable_diffusion_2_v",
    "Stable Diffusion 2.1 (768)",
    (*_OF_2, "stable_diffusion_2_768"),
    (OPEN_CLIP_H, _SD2_DENOISER, *_VAE),
    _SD2_PROMPTING,
    side=768,
    prediction=Prediction.V,
)
STABLE_DIFFUSION_2_INPAINTING = _stable_diffusion(
    "stable_diffusion_2_inpainting",
    "Stable Diffusion 2 Inpainting",
    (*_OF_2, "stable_diffusion_2_512"),
    (OPEN_CLIP_H, _SD2_PAINTER, *_VAE),
    _SD2_PROMPTING,
)
SDXL = _stable_diffusion(
    "sdxl",
    "Stable Diffusion XL",
    ("stable_diffusion_xl",),
    (CLIP_L_LAYERS, OPEN_CLIP_BIGG, _SDXL_DENOISER, SDXL_VAE_DECODER, SDXL_VAE_ENCODER),
    _SDXL_PROMPTING,
    side=1024,
)

ARCHITECTURES = (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_1_INPAINTING,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_2_V,
    STABLE_DIFFUSION_2_INPAINTING,
    SDXL,
)
