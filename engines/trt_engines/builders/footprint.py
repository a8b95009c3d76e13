"""What building an engine takes of a machine, before it is tried: estimates from measured builds.

Builds with TensorRT-RTX 1.7.1 on two cores, float16, SM86 or SM89:

    Stable Diffusion 1.5 UNet (1.72 GB of weights), one profile    22 to 31 s    5.8 GB
    Stable Diffusion 1.5 UNet, four profiles                       100 s         7.3 GB
    SDXL UNet (5.14 GB), one profile                               110 s         17.6 GB
    Stable Diffusion 1.5 text encoder (246 MB), one profile        4.0 s         1.0 GB
        of a file in float32 (492 MB)                              6.2 s         1.4 GB
        of a file in float8 (161 MB)                               4.6 s         0.9 GB
    Stable Diffusion 1.5 image decoder (99 MB), one profile        2.6 s         0.7 GB
        of a file in float32 (198 MB)                              4.3 s         0.8 GB

A plan holds float8 weights as they are (169 MB of the text encoder's 161 MB), and all others in the engine's type.
"""

from __future__ import annotations

SECONDS_PER_GB = 16.0
"""Of one profile, per GB of weights: within 60 % of each of the builds above."""

SECONDS_BESIDE = 1.5
"""Loading the library, and a network without weights."""

MEMORY_PER_WEIGHT_BYTE = 3.4
"""Peak memory with one profile over the bytes of the weights."""

MEMORY_PER_PROFILE = 0.3
"""And of each further profile."""

LEAST_MEMORY = 2**30
"""Bytes that a builder takes for a network of any size."""


def build_seconds(weight_bytes: int, profiles: int) -> float:
    """Time to compile an engine on two cores."""
    return SECONDS_BESIDE + SECONDS_PER_GB * weight_bytes / 1e9 * profiles if profiles else 0.0


def build_memory(stored_bytes: int, engine_bytes: int, profiles: int) -> int:
    """Peak memory of compiling an engine, bytes.

    Args: stored_bytes: of the weights as the builder reads them; engine_bytes: as the engine has them.
    """
    if not profiles:
        return 0
    copies = MEMORY_PER_WEIGHT_BYTE - 1 + MEMORY_PER_PROFILE * (profiles - 1)
    return max(LEAST_MEMORY, int(stored_bytes + copies * engine_bytes))
