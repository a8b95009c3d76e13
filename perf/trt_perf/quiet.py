"""Measurements of faults, without the worker's lines about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loguru import logger


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the worker's log: thousands of lines about faults that were asked for."""
    logger.disable("trt_worker")
    try:
        yield
    finally:
        logger.enable("trt_worker")
