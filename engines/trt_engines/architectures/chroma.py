"""Chroma: Flux.1 schnell without the pooled prompt, its modulations made by one small network."""

from __future__ import annotations

from dataclasses import replace

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_engines.architectures.axis import ROWS, TOKENS
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.flux import FLUX_LEVELS, LATENT, NOISE_PRED, SAMPLE, T5_CONTEXT, TIMESTEP
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.architectures.text_encoders import T5_XXL, t5_encoding

_MASK = Tensor(name="context_mask", shape=(ROWS, TOKENS), kind=Kind.BOOL, feed=Feed.TEXT)
_TEXT_ENCODER = replace(T5_XXL, name="text_encoder", folders=("text_encoder", "text_encoders"))
_DENOISER = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=Ports(inputs=(SAMPLE, TIMESTEP, T5_CONTEXT, _MASK), outputs=(NOISE_PRED,)),
    folders=("transformer", "diffusion_models"),
    parameters=8_899_983_424,
    cost=Cost(
        cell=16,
        fixed=191_401_820_160.0,
        per_cell=12_910_854_144.0,
        per_cell_squared=700_416.0,
        per_token=12_935_233_536.0,
        per_cell_token=1_400_832.0,
        per_token_squared=700_416.0,
        activation_bytes_per_cell=107_373.0,
        activation_bytes_per_token=113_153.0,
    ),
    precisions=("bfloat16", "float16", "float32"),
)

CHROMA = Architecture(
    name="chroma",
    title="Chroma",
    aliases=("flux_1",),  # in AIPG's reference list
    networks=(_TEXT_ENCODER, _DENOISER, FLUX_VAE_DECODER, FLUX_VAE_ENCODER),
    prompting=Prompting(
        # ComfyUI gives the tokens unpadded; the library pads to 512 and keeps one pad in its mask. T5 itself has no
        # mask: each prompt is encoded at its own length, and filled up for the denoiser alone.
        encoders=(t5_encoding(_TEXT_ENCODER),),
        lengths=Lengths.MASKED,
        mask="context_mask",
    ),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=LATENT,
            levels=FLUX_LEVELS,
            # Its embedded guidance is always 0, inside the graph. 4 is what the grid's recipe asks for.
            guidance=Guidance(kind=GuidanceKind.CLASSIFIER_FREE, default=4.0),
        ),
    ),
    decoder="vae_decoder",
    encoder="vae_encoder",
    native_side=1024,
    size_step=16,
    tokens=(64, 128, 256, 512),
)

ARCHITECTURES = (CHROMA,)
