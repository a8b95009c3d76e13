"""Every architecture there is, by name.

The files of this package are looked through for a tuple `ARCHITECTURES`, so a new architecture is one new file here and
no change to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from trt_engines import architectures as package
from trt_engines.architectures.architecture import Architecture


def _all() -> Iterator[Architecture]:
    for name in sorted(found.name for found in iter_modules(package.__path__)):
        if name != "registry":
            yield from getattr(import_module(f"{package.__name__}.{name}"), "ARCHITECTURES", ())


ARCHITECTURES: tuple[Architecture, ...] = tuple(_all())


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


def known_as(name: str) -> tuple[Architecture, ...]:
    """The architectures of that name or alias: none, one, or several that only a model's files tell apart."""
    return tuple(known for known in ARCHITECTURES if name == known.name or name in known.aliases)
