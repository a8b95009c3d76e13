"""Text encoders of the flow families: files have the names of the transformers library, behind various prefixes.

Sources: transformers' modules; the prefixes are those of published files as ComfyUI's loaders name them
(`text_encoders.NAME.transformer.` where all networks are in one file). They were not held to the files themselves.
"""

from __future__ import annotations

from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.maps.ldm import clip
from trt_export.checkpoints.maps.rows import row

CLIP_L = (clip("text_encoders.clip_l.transformer.text_model.", "text_encoders.clip_l.", "text_model.", ""),)


def t5(*prefixes: str) -> KeyMap:
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
        prefixes=prefixes,
        entries=tuple(row(name, name) for name in names),
        tied=(("shared.weight", "encoder.embed_tokens.weight"),),
    )


T5_XXL = (t5("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.", ""),)


def qwen3(*prefixes: str) -> KeyMap:
    """The decoder layers of Qwen3, also those of Qwen3-VL's language model."""
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
        prefixes=prefixes,
        entries=tuple(row(name, name) for name in names),
        unused=("norm.weight", f"{layer}.self_attn.rotary_emb.inv_freq"),
    )


QWEN3_4B = (qwen3("text_encoders.qwen3_4b.transformer.model.", "text_encoders.qwen3_4b.model.", "model.", ""),)
QWEN3_VL_4B = (
    qwen3(
        "text_encoders.qwen3vl_4b.transformer.model.",
        "text_encoders.qwen3vl_4b.transformer.model.language_model.",
        "model.language_model.",  # as the model is published
        "language_model.",
        "model.",  # as ComfyUI's files have it
        "",
    ),
)
