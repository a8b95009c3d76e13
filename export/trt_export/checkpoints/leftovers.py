"""Tensors that a file has for a network beyond its weights: harmless ones are known by name, others are another model.

A tensor that nothing reads is a sign that the network does something that its architecture does not: a latent
consistency model differs from Stable Diffusion by one, in which its guidance goes in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from trt_export.checkpoints.keymap import Lookup
from trt_export.checkpoints.safetensors_file import StoredTensor
from trt_export.checkpoints.scales import belongs_to

HARMLESS = re.compile(
    r"(.*\.)?(num_batches_tracked|position_ids|inv_freq|attn_mask|logit_scale)"  # counters and constants
    r"|model_ema\..*|(.*\.)?ema_.*|decay|num_updates"  # averages of training
    r"|loss\..*|logvar|betas|alphas_cumprod(_prev)?|sqrt_.*|log_one_minus_.*|posterior_.*|lvlb_weights"  # its losses
    r"|scaled_fp8|spiece_model|tekken_model"  # a mark of scaled weights; tokenizers
    r"|vision_model\..*|visual\..*|visual_projection\..*|text_projection(\.weight)?|lm_head\..*"  # of whole models
    r"|v_pred|ztsnr|edm_mean|edm_std|edm_vpred\..*"  # words on the prediction, which are heard elsewhere
)
"""Names, without the prefix of the network, of what files are known to have beside its weights."""

OTHERS = (
    "model.diffusion_model.",
    "diffusion_model.",
    "model_ema.",
    "first_stage_model.",
    "vae.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoder.",
    "text_encoders.",
    "clip_l_vision.",
    "denoiser.",
)
"""Beginnings of names of other networks, which the prefix of the network in question may be the beginning of."""

MEANINGS: Mapping[str, str] = {
    "time_embed.cond_proj.weight": "a latent consistency model, whose guidance is an input of the network",
    "time_embedding.cond_proj.weight": "a latent consistency model, whose guidance is an input of the network",
}
"""What a model is by a tensor that its relatives lack."""


def leftovers(
    names: Iterable[str],
    tensors: Mapping[str, StoredTensor],
    layout: tuple[Lookup, str],
    tables: Sequence[Lookup],
) -> Iterator[str]:
    """Stored names of tensors under a network's prefix that are neither its weights nor known to be harmless.

    Args:
        names: of all the network's parameters, in the library's words.
        layout: in which the file has it, and the prefix.
        tables: all tables of the network.
    """
    table, prefix = layout
    places = {place.stored for name in names for place in table.places(name)}
    files = {tensors[prefix + stored].file for stored in places if prefix + stored in tensors}
    partial = [one for one in tables if not one.table.whole]
    for key, tensor in tensors.items():
        stored = key.removeprefix(prefix)
        if tensor.file not in files or not key.startswith(prefix) or stored in places:
            continue
        if any(key.startswith(other) and not prefix.startswith(other) for other in OTHERS):
            continue
        known = HARMLESS.fullmatch(stored) or any(one.is_unused(stored) for one in (table, *tables))
        scale = any(prefix + weight in tensors for weight in belongs_to(stored))
        # Another half of the network, or layers past the last that it reads, in whichever words.
        elsewhere = any(one.by_stored(stored) or one.by_library(stored) for one in partial)
        if not (known or scale or elsewhere):
            yield key
