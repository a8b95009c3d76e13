"""Flux.1: schnell, dev and Krea dev."""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
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
from trt_engines.architectures.text_encoders import CLIP_L_POOLED, POOLED, T5_XXL, clip_encoding, t5_encoding

LATENT = LatentFormat(channels=16, pixels=8, multiple=2)
"""The transformer packs 2x2 patches."""

SAMPLE, NOISE_PRED = LATENT.tensor("sample", Feed.STATE), LATENT.tensor("noise_pred")
TIMESTEP = Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32, feed=Feed.TIME)
T5_CONTEXT = Tensor(name="context", shape=(ROWS, TOKENS, 4096), feed=Feed.TEXT)
_INPUTS = (SAMPLE, TIMESTEP, T5_CONTEXT, Tensor(name="pooled", shape=(ROWS, 768), feed=Feed.TEXT))
_GUIDANCE = Tensor(name="guidance", shape=(ROWS,), kind=Kind.FLOAT32, feed=Feed.GUIDANCE)

FLUX_LEVELS = NoiseLevels(prediction=Prediction.FLOW, time=Time.FLUX, shift=1.15)
"""ComfyUI's shift, which does not follow the size; the library's goes from 0.5 at 256 image tokens to 1.15 at 4096."""


def _denoiser(inputs: tuple[Tensor, ...], parameters: int) -> Network:
    return Network(
        name="denoiser",
        role=Role.DENOISER,
        ports=Ports(inputs=inputs, outputs=(NOISE_PRED,)),
        folders=("transformer", "diffusion_models"),
        parameters=parameters,
        cost=Cost(
            cell=16,
            fixed=6_557_270_016.0,
            per_cell=12_910_854_144.0,
            per_cell_squared=700_416.0,
            per_token=12_935_233_536.0,
            per_cell_token=1_400_832.0,
            per_token_squared=700_416.0,
            activation_bytes_per_cell=81_902.0,
            activation_bytes_per_token=88_576.0,
        ),
        precisions=("bfloat16", "float16", "float32"),  # trained in bfloat16; half precision is clipped at 65504
    )


_SCHNELL = _denoiser(_INPUTS, 11_891_178_560)
_DEV = _denoiser((*_INPUTS, _GUIDANCE), 11_901_408_320)


def _flux(
    name: str, title: str, aliases: tuple[str, ...], denoiser: Network, levels: NoiseLevels, guidance: Guidance
) -> Architecture:
    return Architecture(
        name=name,
        title=title,
        aliases=aliases,
        networks=(CLIP_L_POOLED, T5_XXL, denoiser, FLUX_VAE_DECODER, FLUX_VAE_ENCODER),
        prompting=Prompting(
            # Padding of T5 is looked at, by itself and by the denoiser, as in ComfyUI; the library pads to 512.
            encoders=(clip_encoding(CLIP_L_POOLED, POOLED), t5_encoding(T5_XXL, least=256)),
            lengths=Lengths.EQUAL,
        ),
        passes=(Pass(denoiser="denoiser", latent=LATENT, levels=levels, guidance=guidance),),
        decoder="vae_decoder",
        encoder="vae_encoder",
        native_side=1024,
        size_step=16,
        tokens=(256, 512),
    )


_EMBEDDED = Guidance(kind=GuidanceKind.EMBEDDED, default=3.5)  # ComfyUI's where no node says another

FLUX_SCHNELL = _flux(
    "flux_schnell",
    "Flux.1 schnell",
    ("flux_1", "flux_schnell"),
    _SCHNELL,
    NoiseLevels(prediction=Prediction.FLOW, time=Time.FLOW),
    Guidance(kind=GuidanceKind.NONE),
)
FLUX_DEV = _flux("flux_dev", "Flux.1 dev", ("flux_1", "flux_dev"), _DEV, FLUX_LEVELS, _EMBEDDED)
FLUX_KREA_DEV = _flux("flux_krea_dev", "Flux.1 Krea dev", ("flux_1",), _DEV, FLUX_LEVELS, _EMBEDDED)
"""It shares every graph of Flux.1 dev."""

ARCHITECTURES = (FLUX_SCHNELL, FLUX_DEV, FLUX_KREA_DEV)
