"""What an engine will take of a card, as the libraries tell while they build it: no card is needed to know.

Seen with TensorRT-RTX 1.7.1, at the severity INFO: for each profile in turn `Total Activation Memory: 58523648 bytes`,
and at the end `Total Weights Memory: 4718848 bytes`, once, however many kinds of cards the engine is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trt_engines.store.manifest import DeviceMemory

_LINE = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


def tells_memory(line: str) -> bool:
    """Whether a line of a library's log is of use here."""
    return _LINE.fullmatch(line.strip()) is not None


def told_memory(lines: Sequence[str], profiles: int) -> DeviceMemory | None:
    """What a library told.

    Args:
        lines: of its log, in order.
        profiles: of the engine; 0: all its shapes are fixed.
    Returns: None: it did not tell, or not of every profile.
    """
    found: dict[str, list[int]] = {"Activation": [], "Weights": []}
    for match in (_LINE.fullmatch(line.strip()) for line in lines):
        if match:
            found[match[1]].append(int(match[2]))
    if len(found["Weights"]) != 1 or len(found["Activation"]) != max(1, profiles):
        return None
    return DeviceMemory(weights=found["Weights"][0], activations=tuple(found["Activation"]))
