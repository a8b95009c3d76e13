"""JSON as the real servers read and write it, which is Python's own way.

Both send ASCII with escapes and let text through that Unicode cannot hold, such as half of a surrogate pair.
"""

from __future__ import annotations

import json
from typing import Any


def dump(value: Any) -> str:
    """A value as text, all of it ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def load(text: str | bytes) -> Any:
    """A value from text. Raises: ValueError: it is no JSON, or too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
