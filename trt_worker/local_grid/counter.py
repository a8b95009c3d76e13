"""A counter for people: ask the running grid for an image with one HTTP request. The real network has no such path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from trt_worker.local_grid.grid_http import json_response
from trt_worker.local_grid.requests import GridHandle, ImageRequest

PATH = "/local/images"


class Counter:
    """`POST /local/images` with the fields of an `ImageRequest` as JSON answers with the first image."""

    def __init__(self, submit: Callable[[ImageRequest], Awaitable[GridHandle]]) -> None:
        self._submit = submit

    def routes(self) -> list[web.RouteDef]:
        """The counter's route."""
        return [web.post(PATH, self._ask)]

    async def _ask(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=ImageRequest)
            handle = await self._submit(asked)
        except (msgspec.MsgspecError, ValueError, LookupError) as error:
            return json_response({"message": str(error)}, status=422)
        result = await handle.result()
        if not result.images:
            return json_response({"message": result.message}, status=result.status)
        first = result.images[0]
        about = {"X-Den": str(result.den), "X-Worker": result.worker, "X-Seconds": f"{result.seconds:.3f}"}
        return web.Response(body=first.data, content_type=first.content_type, headers=about)
