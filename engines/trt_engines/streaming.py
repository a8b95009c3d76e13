"""Weights that stay in host memory and are copied to the device in every call."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from trt_engines.backend import EngineSpec


@runtime_checkable
class StreamsWeights(Protocol):
    """A backend, or the source of its engines, that can leave weights in host memory."""

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        """When the network's engine is loaded next, leave so many bytes of its weights in host memory.

        An engine that is loaded already stays as it is.

        Args:
            size: 0 to the footprint's `streamable`; the library may leave a little more than that, and never less.
        """
