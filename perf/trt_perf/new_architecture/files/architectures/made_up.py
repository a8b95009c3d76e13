"""Made Up: a rectified flow over latents of eight channels at a quarter of the pixels, guided by an input."""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import autoencoder
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
from trt_engines.architectures.text_encoders import CHUNK, CONTEXT, POOLED, clip_encoding

WIDTH = 16
"""Features of a text token, of the pooled prompt and of the denoiser."""

LATENT = LatentFormat(channels=8, pixels=4)

_TEXT_ENCODER = Network(
    name="text_encoder",
    role=Role.TEXT_ENCODER,
    ports=Ports(
        inputs=(Tensor(name="input_ids", shape=(ROWS, CHUNK), kind=Kind.INT64, feed=Feed.IDS),),
        outputs=(
            Tensor(name="context", shape=(ROWS, CHUNK, WIDTH)),
            Tensor(name="pooled", shape=(ROWS, WIDTH)),
        ),
    ),
    folders=("text_encoder", "text_encoders"),
    parameters=49408 * WIDTH,
    cost=Cost(cell=0, fixed=1.0),
)
_DENOISER = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=Ports(
        inputs=(
            LATENT.tensor("sample", Feed.STATE),
            Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32, feed=Feed.TIME),
            Tensor(name="context", shape=(ROWS, TOKENS, WIDTH), feed=Feed.TEXT),
            Tensor(name="pooled", shape=(ROWS, WIDTH), feed=Feed.TEXT),
            Tensor(name="guidance", shape=(ROWS,), feed=Feed.GUIDANCE),
        ),
        outputs=(LATENT.tensor("noise_pred"),),
    ),
    folders=("transformer", "diffusion_models"),
    parameters=(8 * 9 + 1) * WIDTH + 4 * (WIDTH + 1) * WIDTH + (9 * WIDTH + 1) * 8,
    cost=Cost(cell=4, per_cell=4096.0, activation_bytes_per_cell=64.0),
)
_VAE_DECODER, _VAE_ENCODER = autoencoder(
    LATENT,
    parameters=((8 * 9 + 1) * 48, (48 * 9 + 1) * 8),
    costs=(Cost(cell=4, per_cell=7008.0), Cost(cell=4, per_cell=7008.0)),
)

MADE_UP = Architecture(
    name="made_up",
    title="Made Up",
    aliases=("made_up_1",),
    networks=(_TEXT_ENCODER, _DENOISER, _VAE_DECODER, _VAE_ENCODER),
    prompting=Prompting(encoders=(clip_encoding(_TEXT_ENCODER, {**CONTEXT, **POOLED}),), lengths=Lengths.EQUAL),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=LATENT,
            levels=NoiseLevels(prediction=Prediction.FLOW, time=Time.FLOW, shift=2.0),
            guidance=Guidance(kind=GuidanceKind.EMBEDDED, default=3.0),
        ),
    ),
    decoder="vae_decoder",
    encoder="vae_encoder",
    native_side=64,
    size_step=8,
    tokens=(CHUNK,),
)

ARCHITECTURES = (MADE_UP,)
