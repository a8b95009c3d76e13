"""Every table of keys and every signature there is.

The files of this package are looked through for a function `maps` (the layouts in which a network of an architecture is
published) and a tuple `SIGNATURES`, so a new architecture is one new file here and no change to another.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from trt_export.checkpoints import maps as package
from trt_export.checkpoints.keymap import KeyMap
from trt_export.checkpoints.signature import Signature

MODULES: tuple[ModuleType, ...] = tuple(
    import_module(f"{package.__name__}.{name}")
    for name in sorted(found.name for found in iter_modules(package.__path__))
    if name != "registry"
)

SIGNATURES: tuple[Signature, ...] = tuple(one for module in MODULES for one in getattr(module, "SIGNATURES", ()))
"""One for each architecture and layout."""


def key_maps(architecture: str, component: str) -> tuple[KeyMap, ...]:
    """The layouts in which a network is published; (): only its library's own is known, which needs no table."""
    tables = (getattr(module, "maps", None) for module in MODULES)
    return tuple(table for maps in tables if maps is not None for table in maps(architecture, component))
