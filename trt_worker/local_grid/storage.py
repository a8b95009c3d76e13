"""Presigned storage: PUT for results, GET for source images, as an S3-compatible store answers.

A signature covers method, path, date, life and (on the grid) the content type, as SigV4 query signing does; the
digest is BLAKE2 because nobody but this store checks it and it sits in the measured path of the host benchmark.
"""

from __future__ import annotations

import secrets
import time
from calendar import timegm
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from hmac import compare_digest
from urllib.parse import quote
from zlib import crc32

import anyio
from aiohttp import web

from trt_worker.local_grid.faults import FaultInjector

PREFIX = "/storage/"
_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What lies under one key."""

    data: bytes = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedSlot:
    """A presigned place for one image, as it goes into a job."""

    put_url: str = field(repr=False)
    key: str
    content_type: str | None  # None: not signed


class Storage:
    """Objects in memory behind presigned addresses."""

    def __init__(self, faults: FaultInjector) -> None:
        self._faults = faults
        self._secret = secrets.token_bytes(32)
        self._objects: dict[str, StoredObject] = {}
        self.base = ""  # scheme, host and port; known once the server listens
        self.counts: Counter[str] = Counter()  # puts, put_bytes, gets, refused

    def routes(self) -> list[web.RouteDef]:
        """The store's HTTP routes."""
        return [web.put(PREFIX + "{key:.+}", self._put), web.get(PREFIX + "{key:.+}", self._get)]

    def slot(self, key: str, *, seconds: int, content_type: str | None) -> UploadedSlot:
        """A place for one upload that lives `seconds`; with a content type the upload must carry exactly that."""
        return UploadedSlot(put_url=self._sign("PUT", key, seconds, content_type), key=key, content_type=content_type)

    def address(self, key: str, *, seconds: int) -> str:
        """A presigned GET address of an object that lives `seconds`."""
        return self._sign("GET", key, seconds, None)

    def add(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object without going through HTTP."""
        self._objects[key] = StoredObject(data=data, content_type=content_type)

    def head(self, key: str) -> StoredObject | None:
        """What lies under a key."""
        return self._objects.get(key)

    def take(self, key: str) -> StoredObject:
        """Remove an object and return it; a settled job's images leave the store with its result."""
        return self._objects.pop(key)

    def _sign(self, method: str, key: str, seconds: int, content_type: str | None) -> str:
        date = datetime.now(UTC).strftime(_DATE)
        signed = "content-type%3Bhost" if content_type is not None else "host"
        signature = self._signature(method, key, date, str(seconds), content_type)
        return (
            f"{self.base}{PREFIX}{quote(key)}?X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential=local%2F{date[:8]}%2Fauto%2Fs3%2Faws4_request&X-Amz-Date={date}"
            f"&X-Amz-Expires={seconds}&X-Amz-SignedHeaders={signed}&X-Amz-Signature={signature}"
        )

    def _signature(self, method: str, key: str, date: str, seconds: str, content_type: str | None) -> str:
        text = "\n".join((method, key, date, seconds, "-" if content_type is None else "=" + content_type))
        return blake2b(text.encode(), key=self._secret, digest_size=32).hexdigest()

    def _refusal(self, request: web.Request, method: str, key: str) -> str | None:
        """Why the request's signature does not hold, as an S3 error code."""
        query = dict(part.split("=", 1) for part in request.query_string.split("&") if "=" in part)
        try:
            date, seconds, given = query["X-Amz-Date"], query["X-Amz-Expires"], query["X-Amz-Signature"]
            signed = query["X-Amz-SignedHeaders"]
            day, _, clock = date.partition("T")
            fields = (day[:4], day[4:6], day[6:], clock[:2], clock[2:4], clock[4:6])
            expires = timegm(tuple(map(int, fields))) + int(seconds)
        except (KeyError, ValueError):
            return "AccessDenied"
        content_type = request.headers.get("Content-Type", "") if "content-type" in signed else None
        if not compare_digest(given, self._signature(method, key, date, seconds, content_type)):
            return "SignatureDoesNotMatch"
        return "AccessDenied" if time.time() >= expires else None

    async def _put(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        if refusal := self._refusal(request, "PUT", key):
            self.counts["refused"] += 1
            return _error(403, refusal)
        if self._faults.strike("put_cut"):
            return cut(request)
        data = await request.read()
        if fault := self._faults.strike("slow_upload"):
            await anyio.sleep(fault.seconds)
        if fault := self._faults.strike("put_error"):
            return _error(fault.code or 500, "InternalError")
        self.counts["puts"] += 1
        self.counts["put_bytes"] += len(data)
        if not self._faults.strike("put_lost"):
            self.add(key, data, request.headers.get("Content-Type", "binary/octet-stream"))
        return web.Response(headers={"ETag": f'"{crc32(data):032x}"'})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        if refusal := self._refusal(request, "GET", key):
            self.counts["refused"] += 1
            return _error(403, refusal)
        if fault := self._faults.strike("source_slow"):
            await anyio.sleep(fault.seconds)
        if fault := self._faults.strike("source_error"):
            return _error(fault.code or 500, "InternalError")
        found = self.head(key)
        if found is None:
            return _error(404, "NoSuchKey")
        self.counts["gets"] += 1
        return web.Response(body=found.data, content_type=found.content_type)


def cut(request: web.Request) -> web.StreamResponse:
    """Kill the connection of a request; the response returned never leaves."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _error(status: int, code: str) -> web.Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")
