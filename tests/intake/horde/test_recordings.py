"""Every recorded exchange of a worker is understood; what is expected is read off the recording itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trt_engines.model import Model
from trt_worker.errors import UnservableJob
from trt_worker.intake.horde.messages import read_pop, read_reward, read_user, read_worker
from trt_worker.intake.horde.reactions import Endpoint, Verdict, react
from trt_worker.intake.horde.translate import to_job, with_source
from trt_worker.job import JobSpec
from trt_worker.sampler_names import canonical_sampler

WIRE = Path(os.environ.get("WIRE_DIR", Path(__file__).parents[2] / "data" / "wire"))

KNOWN_AT_POP = {
    "WrongCredentials",
    "PolymorphicNameConflict",
    "ProfaneWorkerName",
    "ProfaneBridgeAgent",
    "InvalidPriorityUsername",
    "BadRequest",
    "WorkerFlaggedMaintenance",
    "WorkerInviteOnly",
    "TooManyWorkers",
    "TooManyWorkersTrusted",
    "TooManySameIPs",
    "Forbidden",
    "DeletedUser",
}
"""What ends a worker until its operator has changed something, as the servers' sources say."""

pytestmark = pytest.mark.wire


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as a worker would see it."""

    name: str
    endpoint: Endpoint
    method: str
    path: str
    status: int
    body: Any
    retry_after: float | None

    @property
    def raw(self) -> bytes:
        if isinstance(self.body, dict) and "__text__" in self.body:
            return str(self.body["__text__"]).encode()
        return json.dumps(self.body).encode()

    @property
    def rc(self) -> str:
        return str(self.fields.get("rc", ""))

    @property
    def fields(self) -> dict[str, Any]:
        return self.body if isinstance(self.body, dict) else {}


def _endpoint(method: str, path: str) -> Endpoint | None:
    """The worker's call that this is; None: a requester's, or the image store's."""
    path = path.split("?")[0]
    if path.endswith("/generate/pop"):
        return Endpoint.POP if method == "POST" else None
    if path.endswith("/generate/submit"):
        return Endpoint.SUBMIT
    if path.endswith("/find_user"):
        return Endpoint.FIND_USER
    if "/v2/workers" in path:
        return Endpoint.WORKER
    return Endpoint.STATUS if "/v2/status/" in path else None


def _exchanges() -> Iterator[Exchange]:
    for file in sorted(WIRE.rglob("*.json")):
        recording = json.loads(file.read_text())
        if not isinstance(recording, dict) or "request" not in recording:
            continue  # the tables of kudos and times
        for number, each in enumerate([recording, *recording.get("context", [])]):
            request, response = each["request"], each["response"]
            endpoint = _endpoint(request["method"], request["path"])
            if endpoint is not None:
                headers = {name.lower(): value for name, value in response.get("headers", {}).items()}
                yield Exchange(
                    f"{file.parent.name}/{file.stem}{f'+{number}' if number else ''}",
                    endpoint,
                    request["method"],
                    request["path"],
                    response["status"],
                    response["body"],
                    float(text) if (text := str(headers.get("retry-after", ""))).isdigit() else None,
                )


def _only(*endpoints: Endpoint, accepted: bool, method: str = "", one_record: bool = False) -> pytest.MarkDecorator:
    chosen = [
        exchange
        for exchange in _exchanges()
        if exchange.endpoint in endpoints
        and accepted == (200 <= exchange.status < 300)
        and method in {"", exchange.method}
        and not (one_record and isinstance(exchange.body, list))
    ]
    return pytest.mark.parametrize("exchange", chosen, ids=[exchange.name for exchange in chosen])


def _served(sampler: str) -> bool:
    try:
        return bool(canonical_sampler(sampler))
    except UnservableJob:
        return False


def _features(body: Mapping[str, Any], native: int) -> list[str]:
    """What a job asks for beyond a plain picture or a variation of one."""
    payload = body["payload"]
    found = [
        name
        for name in (
            "control_type",
            "workflow",
            "loras",
            "tis",
            "post_processing",
            "transparent",
            "tiling",
            "use_nsfw_censor",
        )
        if payload.get(name)
    ]
    if not _served(payload.get("sampler_name", "k_euler_a")):
        found.append("sampler")
    if payload.get("hires_fix") and max(payload["width"], payload["height"]) > native:
        found.append("hires_fix")
    processing = body.get("source_processing")
    if body.get("media_type") == "video" or processing in {"txt2video", "img2video"}:
        found.append("video")
    if body.get("source_image") is not None and processing in {"inpainting", "outpainting", "remix"}:
        found.append(processing)
    return found + [name for name in ("source_mask", "extra_source_images") if body.get(name)]


@_only(Endpoint.POP, accepted=True)
def test_every_job_is_translated_or_refused_by_the_name_of_what_is_not_served(
    exchange: Exchange, a_model: Callable[..., Model]
) -> None:
    popped = read_pop(exchange.raw)
    body = exchange.body

    assert popped.ids == tuple(body["ids"])
    assert popped.skipped == {reason: count for reason, count in (body.get("skipped") or {}).items() if count}
    assert [message.id for message in popped.messages] == [message["id"] for message in body.get("messages") or []]
    if body["id"] is None:
        assert popped.job is None
        assert popped.problem == ""
        return
    assert popped.job is not None, popped.problem
    ours = body["model"].upper()
    features = _features(body, native=512)
    call = partial(to_job, received=100.5, asked=100.0, due_margin=10.0)
    if features:
        with pytest.raises(UnservableJob, match=r"not served?\b"):
            call(popped.job, popped.ids, {ours: a_model(ours)})
        return
    job = call(popped.job, popped.ids, {ours: a_model(ours)})
    payload = body["payload"]
    assert isinstance(job, JobSpec)
    assert (job.model, job.width, job.height, job.steps) == (
        ours,
        -(-payload["width"] // 64) * 64,
        -(-payload["height"] // 64) * 64,
        payload["ddim_steps"],
    )
    assert job.sampler == canonical_sampler(payload.get("sampler_name", "k_euler_a"))
    assert job.scheduler == ("karras" if payload.get("karras") else "normal")
    assert job.guidance == (payload.get("cfg_scale", 7.5) or 1.0)
    assert len(job.seeds) == len(body["ids"])
    assert len(set(job.seeds)) == len(job.seeds)
    if payload.get("seeds") or str(payload["seed"]).isdecimal():
        assert job.seeds[0].value == (payload.get("seeds") or [int(payload["seed"])])[0]
    assert "###" not in job.prompt
    assert job.due == 100.0 + body["ttl"] - min(10.0, body["ttl"] / 2)
    if body.get("source_image") is not None:
        assert with_source(job, popped.job, b"source").strength == payload.get("denoising_strength", 1.0)


def _expected(exchange: Exchange) -> set[Verdict]:
    """What may be done after a refusal."""
    if exchange.status == 410:
        return {Verdict.FATAL}
    if exchange.status == 429:
        return {Verdict.SLOW_DOWN}
    if exchange.status == 503 and exchange.retry_after:
        return {Verdict.SLOW_DOWN}
    if exchange.status >= 500:
        return {Verdict.RETRY}
    if exchange.rc in {"InvalidAPIKey", "AnonForbiddenWorker"} or "apikey" in exchange.fields.get("errors", {}):
        return {Verdict.FATAL}
    if exchange.endpoint is Endpoint.SUBMIT:
        return {Verdict.DONE} if exchange.rc == "DuplicateGen" else {Verdict.DROP}
    if exchange.endpoint is Endpoint.FIND_USER:
        return {Verdict.FATAL}
    if exchange.endpoint in {Endpoint.WORKER, Endpoint.STATUS}:
        return {Verdict.DROP}
    if exchange.rc == "WorkerMaintenance":
        return {Verdict.MAINTENANCE}
    if exchange.rc in {"TimeoutIP", "TooManyNewIPs", "UnsafeIP", "MaintenanceMode"}:
        return {Verdict.SLOW_DOWN}
    if exchange.rc in KNOWN_AT_POP or exchange.fields.get("errors"):
        return {Verdict.FATAL}
    return {Verdict.SLOW_DOWN, Verdict.FATAL}  # a code that nobody has described, or a sentence of the web server


@_only(*Endpoint, accepted=False)
def test_every_refusal_has_a_reaction_and_a_sentence(exchange: Exchange) -> None:
    reaction = react(exchange.endpoint, exchange.status, exchange.raw, exchange.retry_after)

    assert reaction.verdict in _expected(exchange)
    assert reaction.sentence
    if exchange.status == 429:
        assert reaction.seconds == (exchange.retry_after or 1.0)
    assert reaction.counted == (exchange.rc == "AbortedGen")


@_only(*Endpoint, accepted=True)
def test_every_accepted_call_is_done_whatever_its_retry_after_says(exchange: Exchange) -> None:
    reaction = react(exchange.endpoint, exchange.status, exchange.raw, exchange.retry_after)

    assert reaction.verdict is Verdict.DONE
    assert reaction.seconds == 0.0


@_only(Endpoint.SUBMIT, accepted=True)
def test_every_reward_is_read(exchange: Exchange) -> None:
    assert read_reward(exchange.raw) == exchange.body["reward"]


@_only(Endpoint.FIND_USER, accepted=True)
def test_every_user_is_read(exchange: Exchange) -> None:
    user = read_user(exchange.raw)

    assert (user.username, user.kudos) == (exchange.body["username"], exchange.body["kudos"])
    assert (user.trusted, user.flagged) == (exchange.body.get("trusted"), exchange.body.get("flagged"))


@_only(Endpoint.WORKER, accepted=True, method="GET", one_record=True)
def test_every_worker_record_is_read(exchange: Exchange) -> None:
    worker = read_worker(exchange.raw)

    assert (worker.id, worker.maintenance_mode) == (exchange.body["id"], exchange.body.get("maintenance_mode"))
