"""Texts that templates of worker configurations hold where the operator's own belong."""

from __future__ import annotations

import re

_TEMPLATES = re.compile(
    r"""
    an\ awesome\ .*                        # the Horde's and the grid's workers: "An Awesome Dreamer"
    | .*\bplease\ (set|enter|change|choose|insert|put)\b.*  # "Please set the name of your Worker"
    | x{3,}                                 # "XXX"
    | <.*>                                  # "<your name>"
    | change[\ _-]?(me|this)
    | your[\ _-].*\b(key|token|name)(\ here)?  # "your api key here"
    | your[\ _-].*_(key|token|name)(_here)?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_placeholder(text: str) -> bool:
    """Whether a name or a key is left over from a template, so that it is nobody's own."""
    return _TEMPLATES.fullmatch(text.strip()) is not None
