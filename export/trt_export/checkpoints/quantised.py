"""Ways to store weights in fewer bits that no graph reads, told by the tensors that only they have."""

from __future__ import annotations

from collections.abc import Mapping

from trt_export.checkpoints.binding import BINDABLE, INSTEAD
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_bytes

PACKED = frozenset({"U8", "I8", "I32", "F4"})
"""Types in which weights are packed, so that shapes of them say nothing."""

MOST_NOTE = 10_000
"""Bytes of a note on how a weight is stored that are looked at."""


def quantisation(tensors: Mapping[str, StoredTensor]) -> str | None:
    """What people call the way in which weights are stored; None: graphs can read them, as far as types tell.

    Args: tensors: of one network.

    Sources: bitsandbytes' and ModelOpt's names, ComfyUI's comfy/quant_ops and its loaders of Nunchaku, GPTQ and AWQ.
    """
    ends = {name.rpartition(".")[2] for name in tensors}
    weights = {one.dtype for name, one in tensors.items() if name.endswith((".weight", ".qweight"))}
    scales = {one.dtype for name, one in tensors.items() if "scale" in name.rpartition(".")[2]}
    if "bitsandbytes__nf4" in ends:
        return "NF4 (bitsandbytes)"
    if "bitsandbytes__fp4" in ends:
        return "FP4 (bitsandbytes)"
    if {"wscales", "smooth_factor", "smooth"} & ends:
        return "SVDQuant (Nunchaku)"
    if "qweight" in ends:
        return "GPTQ or AWQ"
    if "F8_E8M0" in scales:
        return "MXFP8" if "F8_E4M3" in weights else "MXFP4"
    if "weight_scale_2" in ends or "F4" in weights:
        return "NVFP4"
    if "I8" in weights or "SCB" in ends:
        return "int8 (ConvRot)" if _notes(tensors, b"convrot") else "int8"
    for word, kind in (
        ("F8_E5M2", "float8 e5m2"),
        ("F8_E4M3FNUZ", "float8 e4m3fnuz"),
        ("F8_E5M2FNUZ", "float8 e5m2fnuz"),
    ):
        if word in weights:
            return kind
    unread = sorted(word for word in weights - set(BINDABLE) if word in PACKED)
    return f"a packed form ({unread[0]})" if unread else None


def refusal(kind: str, what: str, tensors: Mapping[str, StoredTensor], published: str | None) -> str:
    """Why weights of a kind are not built from, and which file to take.

    Args: kind: as `quantisation` says. what: the network, in words. published: where a file that can be read is.
    """
    file = next(iter(tensors.values())).file
    take = f"{INSTEAD}: {published}" if published else f"{INSTEAD} of this model"
    return f"{file}: the weights of {what} are stored as {kind}, which engines do not read; {take}"


def _notes(tensors: Mapping[str, StoredTensor], word: bytes) -> bool:
    """Whether a note on a weight has a word in it; all of a file's say the same, so that the first one is read."""
    note = next((one for name, one in tensors.items() if name.endswith(".comfy_quant")), None)
    if note is None or note.length > MOST_NOTE:
        return False
    try:
        return word in read_bytes(note)
    except UnreadableCheckpoint:
        return False  # what it could have said is no more than how the kind is called
