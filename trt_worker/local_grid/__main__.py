"""Run the local grid alone: `python -m trt_worker.local_grid --port 7080`."""

from __future__ import annotations

import argparse
import signal

import anyio
from loguru import logger

from trt_worker.local_grid.counter import PATH
from trt_worker.local_grid.server import LocalGrid
from trt_worker.local_grid.settings import Dialect, GridSettings, HordeSettings


def main() -> None:
    """Serve until interrupted, then say what the books say."""
    parser = argparse.ArgumentParser(prog="python -m trt_worker.local_grid", description=__doc__)
    parser.add_argument("--port", type=int, default=7080, help="0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--dialect",
        type=Dialect,
        choices=list(Dialect),
        default=Dialect.AI_HORDE,
        help="whose Horde v2 server to speak (default: %(default)s)",
    )
    given = parser.parse_args()
    settings = GridSettings(port=given.port, horde=HordeSettings(dialect=given.dialect))
    anyio.run(_serve, settings, backend_options={"use_uvloop": True})


async def _serve(settings: GridSettings) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with LocalGrid(settings) as grid:
            logger.info("workers connect to {}", grid.worker_url)
            logger.info("Horde v2 is at {}", grid.horde_url)
            logger.info("API key, for this grid only: {}", grid.key)
            logger.info("""an image: curl -d '{{"prompt":"a red circle"}}' -o image.webp {}{}""", grid.url, PATH)
            async for _ in signals:
                break
            counts = grid.ledger.counts
            logger.info("{} jobs submitted, {} paid", counts["submitted"], counts["paid"])
            for violation in grid.violations():
                logger.error(violation)


if __name__ == "__main__":
    main()
