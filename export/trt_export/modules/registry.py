"""Every architecture there is, by name."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from trt_export.modules.architecture import Architecture, ComponentSpec
from trt_export.modules.chroma import CHROMA
from trt_export.modules.flux import FLUX_DEV, FLUX_KREA_DEV, FLUX_SCHNELL
from trt_export.modules.flux2 import FLUX2_KLEIN_4B
from trt_export.modules.krea2 import KREA_2_TURBO
from trt_export.modules.stable_cascade import STABLE_CASCADE
from trt_export.modules.stable_diffusion import (
    SDXL,
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_1_INPAINTING,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_2_INPAINTING,
    STABLE_DIFFUSION_2_V,
)
from trt_export.modules.z_image import Z_IMAGE_TURBO

ARCHITECTURES: tuple[Architecture, ...] = (
    STABLE_DIFFUSION_1,
    STABLE_DIFFUSION_1_INPAINTING,
    STABLE_DIFFUSION_2,
    STABLE_DIFFUSION_2_V,
    STABLE_DIFFUSION_2_INPAINTING,
    SDXL,
    STABLE_CASCADE,
    FLUX_SCHNELL,
    FLUX_DEV,
    FLUX_KREA_DEV,
    CHROMA,
    Z_IMAGE_TURBO,
    FLUX2_KLEIN_4B,
    KREA_2_TURBO,
)


class UnknownArchitecture(KeyError):
    """No architecture has that name."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError's own would quote the sentence


def architecture(name: str) -> Architecture:
    """The architecture called `name`.

    Raises: UnknownArchitecture: there is none; the message names those there are.
    """
    for known in ARCHITECTURES:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in ARCHITECTURES)
    raise UnknownArchitecture(f"there is no architecture {name!r}; known are {names}")


def networks(key: Callable[[ComponentSpec], Hashable]) -> dict[Hashable, tuple[Architecture, ComponentSpec]]:
    """The first network of each key, and the architecture it is from: text encoders and autoencoders are shared."""
    found: dict[Hashable, tuple[Architecture, ComponentSpec]] = {}
    for entry in ARCHITECTURES:
        for component in entry.components:
            found.setdefault(key(component), (entry, component))
    return found
