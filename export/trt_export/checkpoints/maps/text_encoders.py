"""Text encoders of all families: under which names their weights lie, and behind what in which files.

Files with all networks put them behind the name that their program has for a text encoder: Stable Diffusion's own code
`cond_stage_model.`, Stability's newer one `conditioner.embedders.NUMBER.`, ComfyUI `text_encoders.NAME.` or, where it
saves what it has loaded, `cond_stage_model.NAME.`; files of one encoder have nothing there. Inside are the names of the
transformers library, with or without what its class puts around them, or those of OpenCLIP. Any of these may be met
with any other, so a family only says which it is published behind: that goes first.

Sources: transformers' modules; open_clip's `TextTransformer`; the prefixes are those of published files as ComfyUI's
loaders name them. They were not held to the files themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_export.checkpoints.keymap import Change, Entry, KeyMap
from trt_export.checkpoints.maps.rows import affine, row

FILES = {
    "clip_l": (
        "cond_stage_model.",
        "cond_stage_model.clip_l.",
        "conditioner.embedders.0.",
        "text_encoders.clip_l.",
        "",
    ),
    "clip_h": (
        "cond_stage_model.",
        "cond_stage_model.clip_h.",
        "conditioner.embedders.0.",
        "text_encoders.clip_h.",
        "",
    ),
    "clip_g": (
        "cond_stage_model.clip_g.",
        "conditioner.embedders.1.",
        "text_encoders.clip_g.",
        "text_encoder.clip_g.",
        "",
    ),
    "t5xxl": ("text_encoders.t5xxl.", "cond_stage_model.t5xxl.", "text_encoders.", ""),
    "qwen3_4b": ("text_encoders.qwen3_4b.", "cond_stage_model.qwen3_4b.", ""),
    "qwen3vl_4b": ("text_encoders.qwen3vl_4b.", "cond_stage_model.qwen3vl_4b.", ""),
}
"""What files have in front of an encoder."""

PROJECTION = "text_projection.weight"


def clip_l(first: str) -> tuple[KeyMap, ...]:
    """CLIP ViT-L of Stable Diffusion 1, SDXL and Flux.1. Args: first: what the family's files have in front of it."""
    return _transformers("clip_l", first), _open_clip("clip_l", first)


def clip_h(first: str) -> tuple[KeyMap, ...]:
    """OpenCLIP ViT-H of Stable Diffusion 2. Args: as of `clip_l`."""
    return _open_clip("clip_h", first), _transformers("clip_h", first)


def clip_g(first: str, *, saved: bool = False) -> tuple[KeyMap, ...]:
    """OpenCLIP ViT-bigG of SDXL and Stable Cascade, with its projection.

    That is stored turned under its bare name, and as the library has it where that ends in "weight".

    Args: first: as of `clip_l`. saved: the family is published as ComfyUI saves it, in the library's names.
    """
    original = tuple(
        _open_clip("clip_g", first, inner="text_model.", projection=one)
        for one in (_turned("text_projection"), row(PROJECTION, PROJECTION))
    )
    library = tuple(
        KeyMap(
            layout="transformers",
            prefixes=_before("clip_g", first),
            entries=(*(row(inner + name, f"text_model.{name}") for name in _clip_names()), projection),
            unused=(f"{inner}embeddings.position_ids", "logit_scale"),
            whole=False,
        )
        for inner in ("transformer.text_model.", "transformer.", "text_model.", "")
        for projection in (
            _turned("text_projection"),
            row(f"transformer.{PROJECTION}", PROJECTION),
            row(PROJECTION, PROJECTION),
        )
    )
    return (*library, *original) if saved else (*original, *library)


def _turned(stored: str) -> Entry:
    return Entry(stored=stored, library=(PROJECTION,), change=Change.TRANSPOSED)


def _before(encoder: str, first: str, *inner: str) -> tuple[str, ...]:
    """What may stand in front of an encoder's names, the family's own first.

    Args: inner: what its classes put behind that of the file.
    """
    files = dict.fromkeys((first, *FILES[encoder]))
    return tuple(file + one for file in files for one in inner or ("",))


def _transformers(encoder: str, first: str) -> KeyMap:
    """CLIP under the names of its library."""
    return KeyMap(
        layout="transformers",
        prefixes=_before(encoder, first, "transformer.text_model.", "transformer.", "text_model.", ""),
        entries=tuple(row(name, name) for name in _clip_names()),
        unused=("embeddings.position_ids",),
        whole=False,
    )


def _clip_names() -> Iterator[str]:
    yield from ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
    attention = (f"self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
    layers = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", *attention)
    for layer in (*(f"encoder.layers.{{}}.{layer}" for layer in layers), "final_layer_norm"):
        yield from (f"{layer}.weight", f"{layer}.bias")


def _open_clip(encoder: str, first: str, *, inner: str = "", projection: Entry | None = None) -> KeyMap:
    """OpenCLIP's text transformer: queries, keys and values in one tensor.

    Args: inner: what the library's class puts in front of its parameters. projection: where it is read at all.
    """
    renamed = (
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("attn.out_proj", "self_attn.out_proj"),
    )
    block, layer = "transformer.resblocks.{}", f"{inner}encoder.layers.{{}}"
    rows = [
        row("token_embedding.weight", f"{inner}embeddings.token_embedding.weight"),
        row("positional_embedding", f"{inner}embeddings.position_embedding.weight"),
        *affine(("ln_final", f"{inner}final_layer_norm")),
        *affine(*((f"{block}.{stored}", f"{layer}.{library}") for stored, library in renamed)),
    ]
    for kind in ("weight", "bias"):
        parts = (f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv")
        rows.append(row(f"{block}.attn.in_proj_{kind}", *parts))
    unread = () if projection else ("text_projection", PROJECTION)
    return KeyMap(
        layout="open_clip",
        prefixes=_before(encoder, first, "model.", ""),
        entries=(*rows, *([projection] if projection else [])),
        unused=("logit_scale", "attn_mask", *unread),
        whole=False,
    )


def _t5() -> KeyMap:
    """The encoder of T5. Its embedding is one parameter under two names, of which some files have only one."""
    block = "encoder.block.{}.layer"
    names = [
        "shared.weight",
        "encoder.embed_tokens.weight",
        "encoder.final_layer_norm.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        *(f"{block}.0.SelfAttention.{part}.weight" for part in "qkvo"),
        *(f"{block}.1.DenseReluDense.{part}.weight" for part in ("wi_0", "wi_1", "wo")),
        *(f"{block}.{number}.layer_norm.weight" for number in range(2)),
    ]
    return KeyMap(
        layout="transformers",
        prefixes=_before("t5xxl", FILES["t5xxl"][0], "transformer.", ""),
        entries=tuple(row(name, name) for name in names),
        unused=("logit_scale", "spiece_model"),
        tied=(("shared.weight", "encoder.embed_tokens.weight"),),
        beside=("decoder.",),
    )


def _qwen3(encoder: str, *inner: str) -> KeyMap:
    """The decoder layers of Qwen3, also those of Qwen3-VL's language model. Only those up to the last tap are read."""
    layer = "layers.{}"
    names = [
        "embed_tokens.weight",
        *(f"{layer}.self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"{layer}.self_attn.{part}_norm.weight" for part in "qk"),
        *(f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        f"{layer}.input_layernorm.weight",
        f"{layer}.post_attention_layernorm.weight",
    ]
    return KeyMap(
        layout="transformers",
        prefixes=_before(encoder, FILES[encoder][0], *inner),
        entries=tuple(row(name, name) for name in names),
        unused=("norm.weight", f"{layer}.self_attn.rotary_emb.inv_freq", "lm_head.weight"),
        whole=False,
    )


CLIP_L = clip_l("text_encoders.clip_l.")
T5_XXL = (_t5(),)
QWEN3_4B = (_qwen3("qwen3_4b", "transformer.model.", "model.", "transformer.", ""),)
QWEN3_VL_4B = (
    _qwen3(
        "qwen3vl_4b",
        "transformer.model.",
        "transformer.model.language_model.",
        "model.language_model.",  # as the model is published
        "language_model.",
        "model.",  # as ComfyUI's files have it
        "",
    ),
)
