"""The pool in which pictures are compressed."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray

from trt_worker.delivery import EncodedImage
from trt_worker.encode.image import finished_image
from trt_worker.job import ImageFormat


def usable_cores() -> int:
    """Processor cores this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class Encoder:
    """Compresses pictures in threads, never on the event loop; at most `threads` at a time, the others wait."""

    def __init__(self, threads: int | None = None) -> None:
        """Args: threads: how many pictures at a time, at least 1; None: one per usable core."""
        if threads is not None and threads < 1:
            raise ValueError(f"an encoder needs at least 1 thread, {threads} were asked for")
        self._limiter = CapacityLimiter(threads or usable_cores())

    @property
    def threads(self) -> int:
        return int(self._limiter.total_tokens)

    @property
    def waiting(self) -> int:
        """Pictures that wait for a thread: above 0 for long, the processor holds the cards up."""
        return self._limiter.statistics().tasks_waiting

    async def encode(
        self, pixels: NDArray[np.uint8], image_format: ImageFormat, *, index: int, seed: int
    ) -> EncodedImage:
        """Compress and hash one picture.

        Args:
            pixels: uint8 [height, width, 3], RGB; not to be written until this returns.
        Raises: ValueError: the array is no RGB picture.
        """
        work = partial(finished_image, pixels, image_format, index=index, seed=seed)
        return await to_thread.run_sync(work, limiter=self._limiter)
