"""FLUX.2 Klein 4B.

Source: ComfyUI 0.33, text_encoders/flux.py, comfy_extras/nodes_flux.py and supported_models.py, which the grid's
recipes run.
"""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import FLUX2_VAE_DECODER, FLUX2_VAE_ENCODER
from trt_engines.architectures.axis import ROWS, TOKENS
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.flux import TIMESTEP
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.latent_format import LatentFormat
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels, Prediction, ShiftRule, Time
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting, Template
from trt_engines.architectures.tensor import Tensor
from trt_engines.architectures.text_encoders import QWEN3_4B_WIDTH, qwen3_4b, qwen3_encoding

TAPS = (9, 18, 27)
"""Layers of Qwen3-4B whose states are the context."""

LATENT = LatentFormat(channels=128, pixels=16)
"""A whitened 2x2 patch of the autoencoder's 32 channels, as ComfyUI and the library draw their noise: the same seed
gives the same noise."""

_TEXT_ENCODER = qwen3_4b(
    len(TAPS),
    parameters=3_114_088_192,
    cost=Cost(
        cell=0,
        per_token=5_449_973_760.0,
        per_token_squared=442_368.0,
        activation_bytes_per_token=111_369.0,
    ),
)
_DENOISER = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=Ports(
        inputs=(
            LATENT.tensor("sample", Feed.STATE),
            TIMESTEP,
            Tensor(name="context", shape=(ROWS, TOKENS, len(TAPS) * QWEN3_4B_WIDTH), feed=Feed.TEXT),
        ),
        outputs=(LATENT.tensor("noise_pred"),),
    ),
    folders=("transformer", "diffusion_models"),
    parameters=3_875_544_576,
    cost=Cost(
        cell=16,
        fixed=341_311_488.0,
        per_cell=6_135_742_464.0,
        per_cell_squared=307_200.0,
        per_token=6_181_355_520.0,
        per_cell_token=614_400.0,
        per_token_squared=307_200.0,
        activation_bytes_per_cell=138_320.0,
        activation_bytes_per_token=151_040.0,
    ),
    precisions=("bfloat16", "float16", "float32"),
)

FLUX2_KLEIN_4B = Architecture(
    name="flux2_klein_4b",
    title="FLUX.2 Klein 4B",
    aliases=(),
    networks=(_TEXT_ENCODER, _DENOISER, FLUX2_VAE_DECODER, FLUX2_VAE_ENCODER),
    prompting=Prompting(
        encoders=(
            # Padding is hidden inside the encoder, and looked at by the denoiser.
            qwen3_encoding(
                _TEXT_ENCODER,
                Template(
                    before="<|im_start|>user\n", after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
                ),
                least=512,
            ),
        ),
        lengths=Lengths.EQUAL,  # 512 rows but for prompts of more than 500 tokens
    ),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=LATENT,
            levels=NoiseLevels(
                prediction=Prediction.FLOW,
                time=Time.FLUX,
                shift=2.02,  # of the model itself: schedules do not read it, the first level of SDE samplers does
                shift_rule=ShiftRule.SIZE_AND_STEPS,
            ),
            # The recipes allow 1 to 1.5 with a real negative prompt; the library ignores guidance.
            guidance=Guidance(kind=GuidanceKind.CLASSIFIER_FREE),
        ),
    ),
    decoder="vae_decoder",
    encoder="vae_encoder",
    native_side=1024,
    size_step=16,
    tokens=(512,),
)

ARCHITECTURES = (FLUX2_KLEIN_4B,)
