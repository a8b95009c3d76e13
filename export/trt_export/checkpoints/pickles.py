"""Pickled checkpoints: how they are told, and why they are not read where they lie."""

from __future__ import annotations

import shlex
from pathlib import Path

PICKLED = frozenset({".ckpt", ".pt", ".pth", ".bin"})
"""Endings of files that PyTorch's own `save` writes."""


def refusal(file: Path) -> str:
    """Why a pickle is not read, and what to do."""
    target = file.with_suffix(".safetensors")
    return (
        f"{file} is a pickle: reading it runs code from whoever made it, and its weights cannot be bound where they "
        f"lie. Convert it once, in a process that runs none of it: python -m trt_export convert "
        f"{shlex.quote(str(file))} {shlex.quote(str(target))}"
    )
