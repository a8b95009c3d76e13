"""Checkpoints that lie where models do become models while what is ready serves: one process adds one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream
from loguru import logger

from trt_engines.news import News, read_news
from trt_engines.text import message
from trt_worker.config.keys import without_settings
from trt_worker.config.schema import Config

LONGEST_LINE = 2**16
"""Bytes of a line of news; what is longer is none."""


async def add_newcomers(
    config: Config, added: Callable[[], Awaitable[None]], environ: Mapping[str, str] = os.environ
) -> None:
    """Add what lies under `cache_home`, and `custom_models`, and is no model yet.

    Cancelling this kills the process at once: a model is there whole, or not at all.

    Args: added: called after each model that is there from now on.
    """
    if not config.custom_models and not config.cache_home.is_dir():
        return
    logger.debug("Looking for checkpoints that are no models yet under {}", config.cache_home)
    async with await anyio.open_process(
        command(config),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=without_settings(environ),
        start_new_session=True,  # what a terminal sends to the whole group ends the worker first
    ) as process:
        try:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            while True:
                try:
                    line = await lines.receive_until(b"\n", LONGEST_LINE)
                except anyio.IncompleteRead:
                    break
                if (news := read_news(line)) is not None:
                    _tell(news)
                    if news.added is not None:
                        await added()
            if code := await process.wait():
                logger.error("Looking for new checkpoints ended with status {}; `models add PATH` says why.", code)
        except anyio.DelimiterNotFound:
            logger.error("The process that adds checkpoints says what cannot be understood, and is ended.")
            process.kill()


def command(config: Config) -> Sequence[str]:
    """What adds what is no model yet; see `trt_export.models_command.add_found`."""
    custom = (
        json.dumps({"name": one.name, "baseline": one.baseline, "filepath": str(one.filepath.absolute())})
        for one in config.custom_models
    )
    options = (part for one in custom for part in ("--custom", one))
    # -P: nothing is imported from the directory that the worker was started in
    return [
        *(sys.executable, "-P", "-m", "trt_export", "add-found", "--models", str(config.cache_home.absolute())),
        *options,
    ]


def _tell(news: News) -> None:
    log = logger.error if news.failed else logger.success if news.added is not None else logger.info
    log("{}", message(news.text))
