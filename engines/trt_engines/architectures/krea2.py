"""Krea 2 Turbo.

Source: ComfyUI 0.33, text_encoders/krea2.py and supported_models.py, which the grid's recipes run.
"""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.autoencoders import QWEN_IMAGE_VAE_DECODER, QWEN_IMAGE_VAE_ENCODER
from trt_engines.architectures.axis import ROWS, Axis, Quantity
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.flux import FLUX_LEVELS, LATENT, NOISE_PRED, SAMPLE, TIMESTEP
from trt_engines.architectures.guidance import Guidance, GuidanceKind
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Lengths, Prompting, Template
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.architectures.text_encoders import QWEN3_4B_WIDTH, qwen3_4b, qwen3_encoding

TAPS = tuple(range(2, 36, 3))
"""Layers of Qwen3-VL-4B's language model whose states are the context."""

TEMPLATE = Template(
    before="<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",  # 5 tokens, which are looked at
    cut=34,
)
_TOKENS = Axis(name="tokens", quantity=Quantity.TOKENS, least=TEMPLATE.cut + 2)
_TEXT_ENCODER = qwen3_4b(
    len(TAPS),
    parameters=3_921_534_720,
    cost=Cost(
        cell=0,
        per_token=7_064_780_800.0,
        per_token_squared=573_440.0,
        activation_bytes_per_token=157_449.0,
    ),
)
_DENOISER = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=Ports(
        inputs=(
            SAMPLE,
            TIMESTEP,
            Tensor(name="context", shape=(ROWS, _TOKENS, len(TAPS) * QWEN3_4B_WIDTH), feed=Feed.TEXT),
            Tensor(name="context_mask", shape=(ROWS, _TOKENS), kind=Kind.BOOL, feed=Feed.TEXT),
        ),
        outputs=(NOISE_PRED,),
    ),
    folders=("transformer", "diffusion_models"),
    parameters=12_820_073_036,
    cost=Cost(
        cell=16,
        fixed=-980_720_984_064.0,
        per_cell=24_264_966_144.0,
        per_cell_squared=688_128.0,
        per_token=28_836_278_272.0,
        per_cell_token=1_376_256.0,
        per_token_squared=708_608.0,
        activation_bytes_per_cell=162_558.0,
        activation_bytes_per_token=221_698.0,
    ),
    precisions=("bfloat16", "float32"),  # nothing keeps its residual stream inside half precision
)

KREA_2_TURBO = Architecture(
    name="krea_2_turbo",
    title="Krea 2 Turbo",
    aliases=(),
    networks=(_TEXT_ENCODER, _DENOISER, QWEN_IMAGE_VAE_DECODER, QWEN_IMAGE_VAE_ENCODER),
    prompting=Prompting(
        # No padding; the library fills the prompt up to 507 tokens, before the 5 of the end, and hides that.
        encoders=(qwen3_encoding(_TEXT_ENCODER, TEMPLATE),),
        lengths=Lengths.MASKED,
        mask="context_mask",
    ),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=LATENT,
            levels=FLUX_LEVELS,
            guidance=Guidance(kind=GuidanceKind.NONE, offset=1.0),  # the library's is c + g * (c - u)
        ),
    ),
    decoder="vae_decoder",
    encoder="vae_encoder",
    native_side=1024,
    size_step=16,
    tokens=(512 + TEMPLATE.cut,),
)

ARCHITECTURES = (KREA_2_TURBO,)
