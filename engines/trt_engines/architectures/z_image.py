"""Z-Image Turbo.

Source: ComfyUI 0.33, text_encoders/z_image.py, ldm/lumina/model.py and supported_models.py, which the grid's recipes
run.
"""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import FLUX_VAE_DECODER, FLUX_VAE_ENCODER
from trt_engines.architectures.axis import ROWS, Axis, Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.flux import LATENT, NOISE_PRED, SAMPLE, TIMESTEP
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, Time
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting, Template
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.architectures.text_encoders import QWEN3_4B_WIDTH, qwen3_4b, qwen3_encoding

TAPS = (35,)
"""Layers of Qwen3-4B, which has 36, whose states are the context."""

GROUP = 32
"""Text and image are each filled up to a multiple of so many tokens, with a learned token that is looked at."""

_TOKENS = Axis(name="tokens", quantity=Quantity.TOKENS, multiple=GROUP)
_TEXT_ENCODER = qwen3_4b(
    len(TAPS),
    parameters=3_921_534_720,
    cost=Cost(
        cell=0,
        per_token=7_064_780_800.0,
        per_token_squared=573_440.0,
        activation_bytes_per_token=101_129.0,
    ),
)
_DENOISER = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=Ports(
        inputs=(
            SAMPLE,
            TIMESTEP,
            Tensor(name="context", shape=(ROWS, _TOKENS, QWEN3_4B_WIDTH), feed=Feed.TEXT),
            Tensor(name="context_mask", shape=(ROWS, _TOKENS), kind=Kind.BOOL, feed=Feed.TEXT),
        ),
        outputs=(NOISE_PRED,),
    ),
    folders=("transformer", "diffusion_models"),
    parameters=6_154_908_736,
    cost=Cost(
        cell=16,
        fixed=363_145_854_976.0,
        per_cell=11_357_061_120.0,
        per_cell_squared=491_520.0,
        per_token=11_373_772_800.0,
        per_cell_token=921_600.0,
        per_token_squared=491_520.0,
        activation_bytes_per_cell=124_334.0,
        activation_bytes_per_token=121_351.0,
    ),
    precisions=("bfloat16", "float32"),  # its residual stream passes half precision's largest value
)

Z_IMAGE_TURBO = Architecture(
    name="z_image_turbo",
    title="Z-Image Turbo",
    aliases=("z_image_turbo",),
    networks=(_TEXT_ENCODER, _DENOISER, FLUX_VAE_DECODER, FLUX_VAE_ENCODER),
    prompting=Prompting(
        encoders=(
            # No padding and no limit; the library cuts at 512 tokens. No think tags: the library calls that thinking.
            qwen3_encoding(
                _TEXT_ENCODER,
                Template(before="<|im_start|>user\n", after="<|im_end|>\n<|im_start|>assistant\n"),
            ),
        ),
        # The graph fills each row up to its own multiple of 32, and hides what lies past that.
        lengths=Lengths.MASKED,
        mask="context_mask",
    ),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=LATENT,
            levels=NoiseLevels(prediction=Prediction.FLOW, time=Time.FLOW, shift=3.0),
            guidance=Guidance(kind=GuidanceKind.NONE, offset=1.0),  # the library's is c + g * (c - u)
        ),
    ),
    decoder="vae_decoder",
    encoder="vae_encoder",
    native_side=1024,
    size_step=16,
    tokens=(64, 128, 256, 512),
)

ARCHITECTURES = (Z_IMAGE_TURBO,)
