"""The Horde v2 HTTP API: routes, headers, rate limits, and the faults in front of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
from aiohttp import web

from trt_worker.local_grid import horde_match as match
from trt_worker.local_grid.faults import FaultInjector
from trt_worker.local_grid.horde_errors import (
    NOT_UNDERSTOOD,
    RETIRED,
    HordeError,
    did_you_mean,
    invalid,
    plain,
    refused,
)
from trt_worker.local_grid.horde_queue import OWNERS_TEXT, HordeQueue
from trt_worker.local_grid.horde_results import HordeResults
from trt_worker.local_grid.horde_schema import POP, WORKER, check, required, submit_schema
from trt_worker.local_grid.horde_state import HordeWorker, Request
from trt_worker.local_grid.horde_views import HordeViews
from trt_worker.local_grid.json_text import dump, load
from trt_worker.local_grid.settings import Account, Dialect
from trt_worker.local_grid.storage import cut

ROOT = "/api/v2"
_VERSIONS = {Dialect.AI_HORDE: "5.1.5", Dialect.AIPG: "4.46.3"}
_KEY_HELP = "The API Key corresponding to a registered user. Missing required parameter in the HTTP headers"
_NOT_ALLOWED = "The method is not allowed for the requested URL."
_NOT_FOUND = (
    "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL was not "
    "found on the server. If you entered the URL manually please check your spelling and try again.</p>\n"
)

Answer = tuple[int, Any]
Handler = Callable[[web.Request], Awaitable[Answer | web.StreamResponse]]
_PER_SECOND = (60, 1)
_PER_MINUTE = (90, 60)
_WORKER = (30, 60)


class _Cut(Exception):
    """The connection is to die instead of an answer."""


class HordeApi:
    """All routes below `/api/v2`."""

    def __init__(self, queue: HordeQueue, results: HordeResults, views: HordeViews, faults: FaultInjector) -> None:
        self._queue = queue
        self._results = results
        self._views = views
        self._faults = faults
        self._submit_schema = submit_schema(upstream=queue.dialect is Dialect.AI_HORDE)
        self._paths: set[str] = set()
        self._hits: Counter[tuple[str, str, int]] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """The API's routes."""
        minute = _PER_MINUTE
        return [
            self._route("POST", "/generate/async", self._ask, (2, 1)),
            self._route("GET", "/generate/check/{id}", self._progress, (10, 1)),
            self._route("GET", "/generate/status/{id}", self._status, (10, 60)),
            self._route("DELETE", "/generate/status/{id}", self._cancel, (60, 60)),
            self._route("POST", "/generate/pop", self._pop, _PER_SECOND),
            self._route("POST", "/generate/submit", self._submit, _PER_SECOND),
            self._route("GET", "/find_user", self._find_user, minute),
            self._route("GET", "/workers", self._workers, minute),
            self._route("POST", "/workers/messages", self._message, _WORKER),
            self._route("GET", "/workers/name/{name}", self._worker_by_name, _WORKER),
            self._route("GET", "/workers/{id}", self._worker, _WORKER),
            self._route("PUT", "/workers/{id}", self._change_worker, _WORKER),
            self._route("DELETE", "/workers/{id}", self._delete_worker, _WORKER),
            self._route("GET", "/status/models", self._models, minute),
            self._route("GET", "/status/models/{name}", self._model, minute),
            self._route("GET", "/status/performance", self._performance, minute),
            self._route("GET", "/status/modes", self._modes, (30, 60)),
            self._route("GET", "/status/news", self._news, minute),
            self._route("GET", "/status/heartbeat", self._heartbeat, None),
            web.route("*", ROOT + "/{rest:.*}", self._unknown),
            web.route("*", "/v2/{rest:.*}", self._unknown),
        ]

    def _route(self, method: str, path: str, handler: Handler, limit: tuple[int, int] | None) -> web.RouteDef:
        self._paths.add(ROOT + path)

        async def answer(request: web.Request) -> web.StreamResponse:
            headers = self._limit_headers(request, limit)
            try:
                if self._faults.strike("retired"):
                    return _json(410, RETIRED, {})
                self._limit(request, limit)
                answered = await handler(request)
            except HordeError as error:
                return _json(error.status, error.body, headers)
            except _Cut:
                return cut(request)
            if isinstance(answered, web.StreamResponse):
                return answered
            return _json(*answered, headers)

        return web.route(method, ROOT + path, answer)

    def _limit_headers(self, request: web.Request, limit: tuple[int, int] | None) -> dict[str, str]:
        """`Retry-After` is on every answer, whatever its status: the seconds left of the rate limit's window."""
        if limit is None:
            return {}
        most, seconds = limit
        window = int(time.time()) // seconds
        used = self._hits[request.method, request.path, window]
        left = (window + 1) * seconds - time.time()
        return {
            "Retry-After": str(round(left)),
            "X-RateLimit-Limit": str(most),
            "X-RateLimit-Remaining": str(max(most - used - 1, 0)),
            "X-RateLimit-Reset": str((window + 1) * seconds),
        }

    def _limit(self, request: web.Request, limit: tuple[int, int] | None) -> None:
        if limit is None or not self._queue.settings.enforce_rate_limits:
            return
        most, seconds = limit
        key = (request.method, request.path, int(time.time()) // seconds)
        self._hits[key] += 1
        if self._hits[key] > most:
            raise plain(429, f"{most} per 1 {'second' if seconds == 1 else 'minute'}")

    # workers: pop and submit

    async def _pop(self, request: web.Request) -> Answer | web.StreamResponse:
        if fault := self._faults.strike("pop_silent"):
            await anyio.sleep(fault.seconds)
        if fault := self._faults.strike("pop_limited"):
            return _limited("60 per 1 second", fault.seconds)
        if fault := self._faults.strike("pop_error"):
            raise plain(fault.code or 500, "Internal Server Error")
        body = await _body(request)
        check(body, POP)
        key = _key(request)
        if "name" not in body:
            raise required("The worker's unique name, to track contributions.", "name")
        worker = self._queue.workers.check_in(body, key)
        models = [model for model in body.get("models") or () if model in self._queue.workers.known_models]
        taken = self._queue.pop(worker, models, body.get("amount", 1))
        skipped: Mapping[str, int] = {}
        if not taken:
            skipped = match.skipped(self._queue.open_requests(), worker, models, self._queue.dialect)
        elif self._faults.strike("pop_cut"):
            raise _Cut
        return 200, self._views.job(taken, worker, skipped)

    async def _submit(self, request: web.Request) -> Answer | web.StreamResponse:
        if fault := self._faults.strike("submit_limited"):
            return _limited("60 per 1 second", fault.seconds)
        if fault := self._faults.strike("submit_error"):
            raise plain(fault.code or 500, "Internal Server Error")
        body = await _body(request)
        check(body, self._submit_schema)
        key = _key(request)
        if "generation" not in body:
            raise required("The generated output.", "generation")
        reward = self._results.submit(body, key)
        if self._faults.strike("lost_submit"):
            raise _Cut
        return 200, {"reward": reward}

    # requesters

    async def _ask(self, request: web.Request) -> Answer:
        body = await _body(request)
        owner = self._queue.workers.account(_key(request))
        asked = self._queue.ask(body, owner)
        cost = float(round(match.kudos(asked)))
        if asked.flag("dry_run", False):
            self._queue.forget(asked)
            return 200, {"kudos": cost * len(asked.slots) + 2}
        return 202, {"id": asked.id, "kudos": cost}

    async def _progress(self, request: web.Request) -> Answer:
        return 200, self._views.progress(self._request(request))

    async def _status(self, request: web.Request) -> Answer:
        return 200, self._views.status(self._request(request))

    async def _cancel(self, request: web.Request) -> Answer:
        found = self._request(request)
        before = self._views.status(found)
        self._queue.cancel(found)
        return 200, before

    def _request(self, request: web.Request) -> Request:
        request_id = request.match_info["id"]
        found = self._queue.requests.get(request_id)
        if found is None:
            raise refused(404, "RequestNotFound", f"Image Waiting Prompt (Status) with ID '{request_id}' not found.")
        return found

    # users and workers

    async def _find_user(self, request: web.Request) -> Answer:
        key = request.headers.get("apikey")
        if key and key not in self._queue.workers.accounts:
            hint = did_you_mean(
                f"{ROOT}/find_user", f"{ROOT}/find_user", f"{ROOT}/users", f"{ROOT}/users/<string:user_id>"
            )
            raise refused(404, "UserNotFound", f"User with api_key '{key}' not found.{hint}")
        return 200, self._views.user(self._queue.workers.account(key))

    async def _workers(self, request: web.Request) -> Answer:
        name = request.query.get("name")
        if request.query.get("type", "image") != "image":
            return 200, []
        workers = [worker for worker in self._queue.workers.by_name.values() if name is None or worker.name == name]
        return 200, [self._views.worker(worker, self._asking(request)) for worker in workers]

    async def _worker(self, request: web.Request) -> Answer:
        return 200, self._views.worker(self._worker_of(request), self._asking(request))

    async def _worker_by_name(self, request: web.Request) -> Answer:
        name = request.match_info["name"]
        if name not in self._queue.workers.by_name:
            raise refused(404, "WorkerNotFound", f"Worker with ID '{name}' not found.")
        return 200, self._views.worker(self._queue.workers.by_name[name], self._asking(request))

    def _worker_of(self, request: web.Request) -> HordeWorker:
        worker_id = request.match_info["id"]
        worker = self._queue.workers.by_id(worker_id)
        if worker is None:
            raise refused(404, "WorkerNotFound", f"Worker with ID '{worker_id}' not found.")
        return worker

    def _asking(self, request: web.Request) -> Account | None:
        return self._queue.workers.accounts.get(request.headers.get("apikey", ""))

    async def _change_worker(self, request: web.Request) -> Answer:
        body = await _body(request)
        check(body, WORKER)
        key = _key(request)
        worker = self._worker_of(request)
        account = self._queue.workers.account(key)
        own = account.moderator or account.key == worker.owner.key
        answer: dict[str, Any] = {}
        if "maintenance" in body:
            if not own:
                raise refused(403, "NotOwner", "You're not an admin. Sod off!")
            text = body.get("maintenance_msg") or OWNERS_TEXT
            worker.maintenance = text if body["maintenance"] else None
            answer["maintenance"] = body["maintenance"]
        if "paused" in body:
            if not account.moderator:
                raise refused(403, "NotModerator", "You're not a mod. BTFO!")
            worker.paused = answer["paused"] = body["paused"]
        if not own and set(body) & {"info", "name", "team"}:
            raise refused(403, "NotOwner", "You're not an admin. Sod off!")
        if "info" in body:
            worker.info = answer["info"] = body["info"]
        if "name" in body:
            answer["name"] = self._rename(worker, body["name"])
        if not answer:
            raise refused(400, "NoWorkerModSelected", "No worker modification selected!")
        return 200, answer

    def _rename(self, worker: HordeWorker, name: str) -> str:
        if name in self._queue.workers.by_name:
            if self._queue.dialect is Dialect.AIPG:
                raise plain(500, "Internal Server Error")
            text = f"The specified worker name '{name}' is already taken!"
            raise refused(400, "WorkerNameAlreadyExists", text)
        del self._queue.workers.by_name[worker.name]
        worker.name = name
        self._queue.workers.by_name[name] = worker
        return name

    async def _delete_worker(self, request: web.Request) -> Answer:
        key = _key(request)
        worker = self._worker_of(request)
        account = self._queue.workers.account(key)
        if not account.moderator and account.key != worker.owner.key:
            raise refused(403, "NotOwner", "You're not an admin. Sod off!")
        if any(generation.worker is worker for generation in self._queue.generations.values()):
            text = "Could not delete the worker at this point as it's referenced by a job it completed. "
            raise refused(423, "Locked", text + "Please try again after 20 mins.")
        del self._queue.workers.by_name[worker.name]
        return 200, {"deleted_id": worker.id, "deleted_name": worker.name}

    async def _message(self, request: web.Request) -> Answer:
        body = await _body(request)
        account = self._queue.workers.account(_key(request))
        if not account.moderator:
            raise refused(403, "NotModerator", "You're not a mod. BTFO!")
        worker = self._queue.workers.by_id(body.get("worker_id", ""))
        if worker is None:
            raise refused(404, "WorkerNotFound", f"Worker with ID '{body.get('worker_id')}' not found.")
        now = datetime.now(UTC)
        message = {
            "id": self._queue.new_id(),
            "message": body["message"],
            "origin": body.get("origin", "moderator"),
            "expiry": _stamp(now + timedelta(hours=body.get("expiry", 12))),
        }
        worker.messages.append(message)
        number = list(self._queue.workers.accounts).index(account.key) + 1
        return 200, {"worker_id": worker.id, "user_id": str(number), "created": _stamp(now), **message}

    # status

    async def _models(self, _: web.Request) -> Answer:
        return 200, self._views.models()

    async def _model(self, request: web.Request) -> Answer:
        name = request.match_info["name"]
        return 200, [row for row in self._views.models() if row["name"] == name]

    async def _performance(self, _: web.Request) -> Answer:
        return 200, self._views.performance()

    async def _modes(self, _: web.Request) -> Answer:
        return 200, {"maintenance_mode": False, "invite_only_mode": False}

    async def _news(self, _: web.Request) -> Answer:
        return 200, [
            {"date_published": "2026-01-01", "newspiece": "Nothing happens here.", "importance": "Information"}
        ]

    async def _heartbeat(self, _: web.Request) -> Answer:
        return 200, {
            "message": "OK",
            "version": _VERSIONS[self._queue.dialect],
            "queue": len(self._queue.open_requests()),
            "threads": 1,
            "active_count": 0,
            "db_connection": True,
        }

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        if self._faults.strike("retired"):
            return _json(410, RETIRED, {})
        if request.path in self._paths:
            return _json(405, {"message": _NOT_ALLOWED}, {})
        return web.Response(status=404, text=_NOT_FOUND, content_type="text/html")


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object of a body.

    Raises: HordeError: 400 in the framework's words.
    """
    if request.content_type != "application/json":
        raise plain(400, NOT_UNDERSTOOD)
    try:
        body = load(await request.read())
    except ValueError as error:
        raise plain(400, NOT_UNDERSTOOD) from error
    if not isinstance(body, dict):
        raise plain(400, NOT_UNDERSTOOD)
    return body


def _key(request: web.Request) -> str:
    key = request.headers.get("apikey")
    if key is None:
        raise invalid(apikey=_KEY_HELP)
    return key


def _json(status: int, body: Any, headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        status=status, body=dump(body).encode(), headers={"Content-Type": "application/json", **headers}
    )


def _limited(text: str, seconds: float) -> web.Response:
    return _json(429, {"message": text}, {"Retry-After": str(round(seconds))})


def _stamp(moment: datetime) -> str:
    return format_datetime(moment).replace("+0000", "-0000")
