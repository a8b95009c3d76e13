"""Which weights a refit sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]


def weights_to_set(wanted: Weights, changed: frozenset[str], pristine: Weights) -> dict[str, NDArray[Any]]:
    """Everything that must be set so that the engine has `wanted` and is otherwise as it was built.

    A refit leaves alone what it does not name, so weights that an earlier one changed are put back.

    Args:
        changed: names that differ from the built engine now.
        pristine: the built engine's weights, at least those in `changed`.
    Raises: KeyError: a changed weight has no pristine value.
    """
    return {**{name: pristine[name] for name in changed}, **wanted}
