"""Every module there is, by architecture and network.

The files of this package are looked through for a mapping `MODULES` from an architecture's name to its modules, so a
new architecture is one new file here and no change to another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from trt_engines import modules as package
from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.registry import ARCHITECTURES, architecture
from trt_engines.modules.module_spec import ModuleSpec

Modules = Mapping[str, tuple[ModuleSpec, ...]]


def _all() -> Iterator[tuple[str, tuple[ModuleSpec, ...]]]:
    for name in sorted(found.name for found in iter_modules(package.__path__)):
        if name != "registry":
            own: Modules = getattr(import_module(f"{package.__name__}.{name}"), "MODULES", {})
            yield from own.items()


MODULES: Modules = dict(_all())
"""The modules of each architecture, in the order of its networks."""


def module_of(family: str, name: str) -> ModuleSpec:
    """The module of a network.

    Raises: UnknownArchitecture; KeyError: the architecture has no network of that name.
    """
    network = architecture(family).network(name)
    return next(one for one in MODULES[family] if one.name == network.name)


def networks(key: Callable[[ModuleSpec], Hashable]) -> dict[Hashable, tuple[Architecture, ModuleSpec]]:
    """The first module of each key, and the architecture it is from: text encoders and autoencoders are shared."""
    found: dict[Hashable, tuple[Architecture, ModuleSpec]] = {}
    for entry in ARCHITECTURES:
        for one in MODULES[entry.name]:
            found.setdefault(key(one), (entry, one))
    return found
