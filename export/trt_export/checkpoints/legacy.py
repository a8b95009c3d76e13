"""Pickled checkpoints: why they are refused, and their conversion in a process that runs none of their code."""

from __future__ import annotations

import os
import pickle
import re
import resource
import shlex
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trt_engines.store.files import megabytes, whole_file
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint, encode_header
from trt_export.child import Tell, own_memory, run_phase, unheard

PICKLED = frozenset({".ckpt", ".pt", ".pth", ".bin"})
"""Endings of files that PyTorch's own `save` writes."""

SPARE_BYTES = 4 << 30
"""Memory of the converting process above what it has at its start and twice the file."""

OPEN_FILES = 64

WORDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Safetensors' words for types."""


class Inert:
    """What stands in for training state that well-known checkpoints have beside their weights: it does nothing."""

    def __new__(cls, *_args: Any, **_named: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


STAND_INS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # Stable Diffusion 1.1 to 1.5
    "pytorch_lightning.utilities.types.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Names in pickles that are given to `Inert`: nothing of theirs is imported or called."""


def refusal(file: Path) -> str:
    """Why a pickle is not read, and what to do."""
    target = file.with_suffix(".safetensors")
    return (
        f"{file} is a pickle: reading it runs code from whoever made it, and its weights cannot be bound where they "
        f"lie. Convert it once, in a process that runs none of it: python -m trt_export convert "
        f"{shlex.quote(str(file))} {shlex.quote(str(target))}"
    )


def convert(source: Path, target: Path, tell: Tell = unheard, stop: threading.Event | None = None) -> int:
    """Write the weights of a pickle as safetensors; `target` is whole, or as it was before.

    The pickle is read by another process, one with bounds on its memory and its files, by PyTorch's reader for weights
    alone, which builds tensors and plain containers and calls nothing else.

    Args: stop: ends the conversion when set.

    Returns: bytes written. Raises: PhaseFailed: the file is damaged, asks for code, or is not of weights. Stopped.
    """
    return int(run_phase(convert_here, (source, target), tell, stop or threading.Event()).result)


def convert_here(source: Path, target: Path, tell: Tell) -> int:
    """As `convert`, in this process, which keeps the bounds from then on. Raises: UnreadableCheckpoint, StoreFull."""
    bound(_size(source))
    return convert_unbound(source, target, tell)


def convert_unbound(source: Path, target: Path, tell: Tell) -> int:
    """As `convert_here`, for files that are known to be of a decent size. Raises: UnreadableCheckpoint, StoreFull."""
    size = _size(source)
    tensors = weights_of(_load(source), source)
    total = sum(values.numel() * values.element_size() for values in tensors.values())
    if total > 2 * size:  # tensors may share their values, as tied embeddings do, but not without end
        raise UnreadableCheckpoint(
            f"{source} has {megabytes(size)} and would unfold to {megabytes(total)} of tensors; it is not what it says"
        )
    return _write(target, tensors, total, tell)


def weights_of(loaded: Any, source: Path) -> dict[str, torch.Tensor]:
    """The tensors of what a checkpoint holds, by name; training state beside them is left out.

    Raises: UnreadableCheckpoint: there are none, or some are of a kind that safetensors has no word for.
    """
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(inner, Mapping):
        raise UnreadableCheckpoint(f"{source} holds no named tensors but {type(inner or loaded).__name__}")
    found = {name: one for name, one in inner.items() if isinstance(name, str) and isinstance(one, torch.Tensor)}
    if not found:
        raise UnreadableCheckpoint(f"{source} holds no named tensors; it has {', '.join(map(str, list(inner)[:5]))}")
    for name, values in found.items():
        if values.layout is not torch.strided or values.dtype not in WORDS:
            raise UnreadableCheckpoint(f"{source}: the tensor {name!r} is of {values.dtype}, {values.layout}")
    return found


def _size(source: Path) -> int:
    try:
        return source.stat().st_size
    except OSError as exc:
        raise UnreadableCheckpoint(f"{source} cannot be read: {exc.strerror or exc}") from exc


def _load(source: Path) -> Any:
    """What a pickle holds, read by the reader for weights alone."""
    stand_ins: list[Any] = [(Inert, name) for name in STAND_INS]
    try:
        with torch.serialization.safe_globals(stand_ins):
            # Files from before 2020 are no zip archives, and cannot be mapped.
            return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except pickle.UnpicklingError as exc:
        if asked := re.search(r"GLOBAL (\S+)", str(exc)):
            raise UnreadableCheckpoint(
                f"{source} asks to run {asked[1].rstrip('.')}, which no weights need: it may be malicious. Nothing of "
                "it was run and nothing was written; get the model from somebody else, as safetensors"
            ) from exc
        raise UnreadableCheckpoint(f"{source} is not a checkpoint of weights: {str(exc).splitlines()[0]}") from exc
    except Exception as exc:  # a damaged pickle can fail with anything
        raise UnreadableCheckpoint(f"{source} is damaged or no checkpoint: {exc!r:.300}; download it again") from exc


def _write(target: Path, tensors: Mapping[str, torch.Tensor], total: int, tell: Tell) -> int:
    header = encode_header({name: (WORDS[one.dtype], tuple(one.shape)) for name, one in tensors.items()})
    written = 0
    with whole_file(target, f"{target.name} ({megabytes(total)})") as stream:
        stream.write(header)
        for data in map(_bytes, tensors.values()):
            written += stream.write(data)
            tell("convert", written / max(total, 1))
    return len(header) + written


def _bytes(values: torch.Tensor) -> memoryview:
    return memoryview(values.detach().reshape(-1).contiguous().view(torch.uint8).numpy())


def bound(size: int) -> None:
    """Bound the memory and the files of this process for good, for a checkpoint of `size` bytes."""
    memory = own_memory("VmSize") + 2 * size + SPARE_BYTES
    for limit, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 2 * size + (64 << 20)),
        (resource.RLIMIT_NOFILE, max(OPEN_FILES, len(os.listdir("/proc/self/fd")) + 16)),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most, most) if hard == resource.RLIM_INFINITY or most < hard else (hard, hard))
