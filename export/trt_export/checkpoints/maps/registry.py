"""Every table there is, by architecture and component."""

from __future__ import annotations

from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.maps import cascade, chroma, flux, flux2, krea2, ldm, z_image

MODULES = (ldm, cascade, flux, chroma, z_image, flux2, krea2)


def key_maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts in which a network is published; (): only its library's own is known, which needs no table."""
    return tuple(table for module in MODULES for table in module.maps(architecture, component))
