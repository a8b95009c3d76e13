"""Stable Cascade: stage C makes a small latent of the text, stage B a large one of that, stage A pixels of it.

Sources: modules/ and inference/utils.py of Stability-AI/StableCascade; ComfyUI's comfy_extras/nodes_stable_cascade.py
and hordelib's graphs for what today's workers do.
"""

from __future__ import annotations

from fractions import Fraction

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.axis import ROWS, TOKENS, sides
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
from trt_engines.architectures.text_encoders import CONTEXT, OPEN_CLIP_BIGG_LAST, POOLED, clip_encoding

STAGE_C_LATENT = LatentFormat(channels=16, pixels=Fraction(128, 3))
"""24 positions for 1024 pixels. The library writes 42.67 and rounds up, as an axis does. ComfyUI divides by 42 and
rounds down, which is one position less for some sizes, and by 32 in its two-pass graph, which is up to a third more."""

STAGE_B_LATENT = LatentFormat(channels=4, pixels=4, multiple=2)
STAGE_A_LATENT = LatentFormat(channels=4, pixels=4)
EFFNET_SCALE = 32
"""Pixels per position of what the image encoder makes: pictures are scaled to fit stage C's latent before."""

_TIMESTEP = Tensor(name="timestep", shape=(ROWS,), kind=Kind.FLOAT32, feed=Feed.TIME)  # in 0..1


def stage_c_ports(context: int, pooled: int) -> Ports:
    """Args: context: features of a text token. pooled: of the pooled prompt."""
    return Ports(
        inputs=(
            STAGE_C_LATENT.tensor("sample", Feed.STATE),
            _TIMESTEP,
            Tensor(name="context", shape=(ROWS, TOKENS, context), feed=Feed.TEXT),
            Tensor(name="pooled", shape=(ROWS, pooled), feed=Feed.TEXT),
        ),
        outputs=(STAGE_C_LATENT.tensor("noise_pred"),),
    )


def stage_b_ports(pooled: int, multiple: int = STAGE_B_LATENT.multiple) -> Ports:
    """Args: pooled: features of the pooled prompt. multiple: positions of a patch."""
    latent = LatentFormat(channels=STAGE_B_LATENT.channels, pixels=STAGE_B_LATENT.pixels, multiple=multiple)
    effnet = (ROWS, STAGE_C_LATENT.channels, *sides(STAGE_C_LATENT.pixels, prefix="effnet_"))
    return Ports(
        inputs=(
            latent.tensor("sample", Feed.STATE),
            _TIMESTEP,
            Tensor(name="effnet", shape=effnet, feed=Feed.BEFORE),
            # ComfyUI's graph gives stage B the positive prompt zeroed (ConditioningZeroOut), its pooled form with it.
            Tensor(name="pooled", shape=(ROWS, pooled), feed=Feed.ZEROS),
        ),
        outputs=(latent.tensor("noise_pred"),),
    )


STAGE_C = Network(
    name="denoiser",
    role=Role.DENOISER,
    ports=stage_c_ports(1280, 1280),
    folders=("prior", "diffusion_models"),
    parameters=3_589_103_632,
    cost=Cost(
        cell=float(STAGE_C_LATENT.pixels),
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
STAGE_B = Network(
    name="denoiser_stage_b",
    role=Role.DENOISER,
    ports=stage_b_ports(1280),
    folders=("decoder",),
    parameters=1_562_941_136,
    cost=Cost(
        cell=8,
        fixed=5_457_681_920.0,
        per_cell=339_310_400.0,
        per_cell_squared=2_270.0,
        activation_bytes_per_cell=11_433.0,
    ),
    precisions=("bfloat16", "float16", "float32"),  # published in bfloat16; the library's example runs it in half
)

_PIXELS = (ROWS, 3, *sides(1, 4, prefix="pixel_"))
STAGE_A_DECODER = Network(
    name="vae_decoder",
    role=Role.AUTOENCODER,
    ports=Ports(
        inputs=(STAGE_A_LATENT.tensor("latent", Feed.LATENT),), outputs=(Tensor(name="pixels", shape=_PIXELS),)
    ),
    folders=("vqgan", "vae"),
    parameters=15_706_842,
    cost=Cost(cell=4, per_cell=33_148_416.0, activation_bytes_per_cell=16_904.0),
    precisions=("float16", "float32"),  # of bfloat16 TensorRT-RTX 1.7 compiles no transposed convolution
)
STAGE_A_ENCODER = Network(
    name="vae_encoder",
    role=Role.AUTOENCODER,
    ports=Ports(
        inputs=(Tensor(name="pixels", shape=_PIXELS, feed=Feed.PIXELS),), outputs=(STAGE_A_LATENT.tensor("latent"),)
    ),
    folders=("vqgan", "vae"),
    parameters=2_667_284,
    cost=Cost(cell=4, per_cell=7_120_128.0, activation_bytes_per_cell=16_992.0),
)
"""For what starts stage B from a picture. Nothing of today's does: its first latent is noise."""

EFFNET_ENCODER = Network(
    name="effnet_encoder",
    role=Role.AUTOENCODER,
    ports=Ports(
        inputs=(  # a picture scaled to 32 pixels per position of stage C's latent
            Tensor(
                name="pixels",
                shape=(ROWS, 3, *sides(STAGE_C_LATENT.pixels / Fraction(EFFNET_SCALE), EFFNET_SCALE, prefix="pixel_")),
                feed=Feed.PIXELS,
            ),
        ),
        outputs=(STAGE_C_LATENT.tensor("latent"),),
    ),
    folders=("effnet_encoder",),
    parameters=20_197_968,
    cost=Cost(
        cell=float(STAGE_C_LATENT.pixels),
        fixed=7_329_792.0,
        per_cell=116_161_408.0,
        activation_bytes_per_cell=73_731.0,
    ),
    precisions=("bfloat16", "float32"),  # nobody runs it in half precision
)

STABLE_CASCADE = Architecture(
    name="stable_cascade",
    title="Stable Cascade",
    aliases=("stable_cascade",),
    networks=(OPEN_CLIP_BIGG_LAST, STAGE_C, STAGE_B, STAGE_A_DECODER, STAGE_A_ENCODER, EFFNET_ENCODER),
    prompting=Prompting(
        encoders=(clip_encoding(OPEN_CLIP_BIGG_LAST, {**CONTEXT, **POOLED}),),
        # Stage C attends to text, pooled text and the latent in one softmax, so a repeated context is not the same,
        # though ComfyUI repeats it.
        lengths=Lengths.EQUAL,
    ),
    passes=(
        Pass(
            denoiser="denoiser",
            latent=STAGE_C_LATENT,
            levels=NoiseLevels(prediction=Prediction.EPSILON, time=Time.COSINE, shift=2.0),
            guidance=Guidance(kind=GuidanceKind.CLASSIFIER_FREE, default=4.0),  # the library's pipeline
            share=0.67,  # hordelib's graphs
        ),
        Pass(
            denoiser="denoiser_stage_b",
            latent=STAGE_B_LATENT,
            levels=NoiseLevels(prediction=Prediction.EPSILON, time=Time.COSINE),
            guidance=Guidance(kind=GuidanceKind.NONE),
            share=0.33,
        ),
    ),
    decoder="vae_decoder",
    encoder="effnet_encoder",
    native_side=1024,
    size_step=8,
    tokens=(77, 154, 231),
)

ARCHITECTURES = (STABLE_CASCADE,)
