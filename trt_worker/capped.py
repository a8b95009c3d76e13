"""The one way to read the body of an HTTP answer: never more of it than a limit, counted after decompression.

A few kilobytes of gzip can become gigabytes. aiohttp decompresses a piece at a time and waits until that is taken, so
what is held at any moment is the limit and one piece.
"""

from __future__ import annotations

import aiohttp

from trt_worker.errors import AnswerTooLarge

_PIECE = 1 << 16  # bytes asked for at a time


async def read_capped(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The whole body of an answer, decompressed.

    Args:
        limit_bytes: more is refused while it arrives, whatever the server announced. The rest is not read: the
            connection is closed.
    Raises: AnswerTooLarge: names the host and the path, never the query string, which may be a credential.
        aiohttp.ClientError, OSError, TimeoutError: as reading from a session raises them.
    """
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        body += piece
        if len(body) > limit_bytes:
            response.close()
            url = response.url
            raise AnswerTooLarge(f"{url.scheme}://{url.host}{url.path} answered more than {limit_bytes} bytes")
    return bytes(body)
