"""Which architectures the runtime can serve, told by their facts."""

from __future__ import annotations

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.feed import Feed

UNFILLED = frozenset({Feed.BEFORE, Feed.REFERENCE})
"""What the runtime cannot give to a denoiser yet."""


def why_unserved(known: Architecture) -> str:
    """Why the runtime cannot serve an architecture yet, in an operator's words; empty: it can."""
    if len(known.passes) > 1:
        return f"{known.title} draws in {len(known.passes)} passes, and this worker makes one"
    if any(encoder.chunk is None for encoder in known.prompting.encoders):
        return f"this worker has no tokens for the prompts of {known.title} yet"
    denoiser = known.network(known.passes[0].denoiser)
    if unfilled := [tensor.name for tensor in denoiser.inputs if tensor.feed in UNFILLED]:
        return f"this worker cannot give {known.title} its {', '.join(unfilled)} yet"
    return ""
