"""Text encoders: CLIP's layers and pooled prompts, T5-XXL, and Qwen3 layers tapped on the way.

Sources of what they do with prompts: ComfyUI's sd1_clip.py, sdxl_clip.py and text_encoders/, which today's workers run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from trt_engines.architectures.axis import ROWS, TOKENS
from trt_engines.architectures.cost import Cost
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.prompting import Template, TextEncoding, Vocabulary
from trt_engines.architectures.tensor import Kind, Tensor

CHUNK = 77
"""Tokens of one row of CLIP: start, up to 75 of the prompt, end, padding."""

CLIP_END = 49407
"""CLIP's end token, which the L model's rows are filled up with as well."""

CONTEXT: Mapping[str, str] = {"context": "context"}
POOLED: Mapping[str, str] = {"pooled": "pooled"}

_CLIP_IDS = Tensor(name="input_ids", shape=(ROWS, CHUNK), kind=Kind.INT64, feed=Feed.IDS)


def clip_pooled_ports(width: int) -> Ports:
    """CLIP that gives a pooled prompt alone."""
    return Ports(inputs=(_CLIP_IDS,), outputs=(Tensor(name="pooled", shape=(ROWS, width)),))


def clip_layers_ports(layers: int, width: int) -> Ports:
    """CLIP that gives the states after each layer, the last first: entry k - 1 is what a clip skip of k asks for."""
    return Ports(inputs=(_CLIP_IDS,), outputs=(Tensor(name="context", shape=(layers, ROWS, CHUNK, width)),))


def clip_layers_and_pooled_ports(layers: int, width: int, projected: int) -> Ports:
    """As `clip_layers_ports`, and a pooled prompt."""
    own = clip_layers_ports(layers, width)
    return replace(own, outputs=(*own.outputs, Tensor(name="pooled", shape=(ROWS, projected))))


def clip_last_and_pooled_ports(width: int, projected: int) -> Ports:
    """CLIP that gives the states after its last layer, and a pooled prompt."""
    context = Tensor(name="context", shape=(ROWS, CHUNK, width))
    return Ports(inputs=(_CLIP_IDS,), outputs=(context, Tensor(name="pooled", shape=(ROWS, projected))))


def _clip(name: str, ports: Ports, *, parameters: int, flops: float) -> Network:
    return Network(
        name=name,
        role=Role.TEXT_ENCODER,
        ports=ports,
        folders=(name, "text_encoders"),
        parameters=parameters,
        cost=Cost(cell=0, fixed=flops),
    )


CLIP_L_POOLED = _clip("text_encoder", clip_pooled_ports(768), parameters=123_060_480, flops=13_298_621_952.0)
"""Flux.1's."""

CLIP_L_LAYERS = _clip("text_encoder", clip_layers_ports(12, 768), parameters=123_060_480, flops=13_298_503_680.0)
"""Stable Diffusion 1's, whose states are normed, and SDXL's first, whose are not."""

OPEN_CLIP_H = _clip("text_encoder", clip_layers_ports(24, 1024), parameters=352_984_064, flops=47_089_287_168.0)
"""Stable Diffusion 2's, whose states are normed."""

OPEN_CLIP_BIGG = _clip(
    "text_encoder_2",
    clip_layers_and_pooled_ports(32, 1280, 1280),
    parameters=694_659_840,
    flops=97_863_303_680.0,
)
"""SDXL's second, whose states are not normed. Its pooled prompt is projected."""

OPEN_CLIP_BIGG_LAST = _clip(
    "text_encoder", clip_last_and_pooled_ports(1280, 1280), parameters=694_659_840, flops=97_863_303_680.0
)
"""Stable Cascade's, whose states are not normed. Its graph hides padding from the other tokens."""

T5_XXL = Network(
    name="text_encoder_2",
    role=Role.TEXT_ENCODER,
    ports=Ports(
        inputs=(Tensor(name="input_ids", shape=(ROWS, TOKENS), kind=Kind.INT64, feed=Feed.IDS),),
        outputs=(Tensor(name="context", shape=(ROWS, TOKENS, 4096)),),
    ),
    folders=("text_encoder_2", "text_encoders"),
    parameters=4_762_310_656,
    cost=Cost(
        cell=0,
        per_token=9_261_023_232.0,
        per_token_squared=393_216.0,
        activation_bytes_per_token=196_608.0,
    ),
    precisions=("bfloat16", "float32"),  # its feed-forward layers pass 65504, half precision's largest value
)
"""It has no mask: rows of one call have one length, or padding is looked at."""

QWEN3_4B_WIDTH = 2560


def qwen3_4b(taps: int, *, parameters: int, cost: Cost) -> Network:
    """The language model of Qwen3-4B or Qwen3-VL-4B up to its last tap, the taps of a token side by side.

    Args: taps: how many layers' states are the context.
    """
    mask = Tensor(name="context_mask", shape=(ROWS, TOKENS), kind=Kind.BOOL, feed=Feed.KEPT)
    ids = Tensor(name="input_ids", shape=(ROWS, TOKENS), kind=Kind.INT64, feed=Feed.IDS)
    context = Tensor(name="context", shape=(ROWS, TOKENS, taps * QWEN3_4B_WIDTH))
    return Network(
        name="text_encoder",
        role=Role.TEXT_ENCODER,
        ports=Ports(inputs=(ids, mask), outputs=(context,)),
        folders=("text_encoder", "text_encoders"),
        parameters=parameters,
        cost=cost,
        precisions=("bfloat16", "float32"),  # single values of its residual stream pass half precision's largest
    )


def clip_encoding(
    network: Network, gives: Mapping[str, str] = CONTEXT, *, pad: int = CLIP_END, clip_skip: int | None = None
) -> TextEncoding:
    """Chunks of 77 tokens, each encoded alone.

    Args: pad: 49407, the end token, of the L model and of Stable Cascade's bigG; 0 of OpenCLIP-H and SDXL's bigG.
    """
    return TextEncoding(
        network=network.name, vocabulary=Vocabulary.CLIP, pad=pad, gives=gives, chunk=CHUNK, clip_skip=clip_skip
    )


def t5_encoding(network: Network, *, least: int = 1) -> TextEncoding:
    """One row of any length that ends with token 1; weights apply."""
    return TextEncoding(network=network.name, vocabulary=Vocabulary.T5, pad=0, gives=CONTEXT, least=least)


def qwen3_encoding(network: Network, template: Template, *, least: int = 1) -> TextEncoding:
    """One row of any length in a chat template; never cut, and parentheses are text."""
    return TextEncoding(
        network=network.name,
        vocabulary=Vocabulary.QWEN3,
        pad=151643,  # <|endoftext|>
        gives=CONTEXT,
        least=least,
        template=template,
        weighted=False,
    )
