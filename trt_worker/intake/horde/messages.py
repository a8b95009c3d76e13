"""What travels between a worker and a Horde server, as structs.

Fields that are not named here are passed over, and a field that is null means the same as one that is absent. Fields
with a fixed set of values are plain strings: a new value must not make a job unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import msgspec

from trt_engines.text import shown
from trt_worker.errors import TransportError
from trt_worker.intake.horde.settings import MAX_POP_IMAGES, HordeSettings
from trt_worker.intake.surrogates import replace_lone_surrogates
from trt_worker.job import MAX_ID_CHARACTERS

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises on bytes that are not the JSON expected; the last for JSON nested without end."""

_MAX_BLACKLIST = 200
_MAX_MODELS = 200
_SHORTEST_MODEL_NAME = 3
_MOST_REASONS = 32  # why requests are held back; servers know about fifteen
_MOST_MESSAGES = 16
_ID_KEPT = 64  # characters
_REASON_SHOWN = 60
_MESSAGE_SHOWN = 1000

_LISTED_IDS = re.compile(r'"ids"\s*:\s*\[([^\]]*)\]')
_QUOTED = re.compile(r'"([^"\\]+)"')

T = TypeVar("T")


class PopRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /generate/pop`. Every field is always sent: the server's defaults differ from its own manual."""

    name: str
    models: list[str]
    bridge_agent: str
    amount: int
    max_pixels: int
    threads: int
    nsfw: bool
    blacklist: list[str]
    priority_usernames: list[str]
    require_upfront_kudos: bool
    extra_slow_worker: bool
    limit_max_steps: bool
    allow_img2img: bool
    allow_unsafe_ipaddr: bool
    # What a JobSpec cannot carry is never asked for.
    allow_painting: bool = False
    allow_post_processing: bool = False
    allow_controlnet: bool = False
    allow_sdxl_controlnet: bool = False
    allow_lora: bool = False
    wallet_address: str | msgspec.UnsetType = msgspec.UNSET  # null would be refused


MOST_REFERENCE = 255
"""Characters of a metadata entry's `ref`; the server refuses more."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `gen_metadata`; the server refuses types and values that it does not know."""

    type: str
    value: str
    ref: str | msgspec.UnsetType = msgspec.UNSET  # at most MOST_REFERENCE characters


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /generate/submit`: one image."""

    id: str
    generation: str  # "R2" once uploaded, else base64; must be there even when faulted
    state: str  # "ok" or "faulted"
    seed: int  # 0 <= seed < 2**63: larger ones crash the server
    censored: bool = False
    gen_metadata: list[Metadata]


class WorkerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A line from the server's moderators; comes with every pop until it expires."""

    id: str
    message: str = ""
    origin: str | None = None


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What to draw. Features that this worker does not serve are kept as they came, only to be recognised."""

    prompt: str | None = None
    ddim_steps: int | None = None
    sampler_name: str | None = None
    cfg_scale: float | None = None
    denoising_strength: float | None = None
    width: int | None = None
    height: int | None = None
    seed: str | int | None = None
    seeds: list[int] | None = None  # AIPG only, one per image
    karras: bool | None = None
    clip_skip: int | None = None
    hires_fix: bool | None = None
    tiling: bool | None = None
    transparent: bool | None = None
    use_nsfw_censor: bool | None = None
    workflow: str | None = None
    control_type: str | None = None
    post_processing: list[Any] | None = None
    loras: list[Any] | None = None
    tis: list[Any] | None = None


class PoppedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A pop's answer when there is a job."""

    payload: Payload
    model: str | None = None
    ttl: float | None = None  # seconds, for the whole batch
    source_image: str | None = None  # URL or base64
    source_processing: str | None = None  # not to be trusted: "img2img" comes without an image and the reverse
    source_mask: str | None = None
    extra_source_images: list[Any] | None = None
    media_type: str | None = None  # AIPG only
    r2_upload: str | None = None
    r2_uploads: list[str] | None = None  # same order as the ids


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /find_user`, as far as a worker needs it."""

    username: str = ""
    kudos: float | None = None
    trusted: bool | None = None
    flagged: bool | None = None


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `GET /workers/name/{name}`, as far as a worker needs it."""

    id: str
    maintenance_mode: bool | None = None


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None = None
    ids: list[str] | None = None
    messages: msgspec.Raw = msgspec.Raw(b"null")
    skipped: msgspec.Raw = msgspec.Raw(b"null")


class _Reward(msgspec.Struct, frozen=True, kw_only=True):
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Popped:
    """A pop's answer, read as far as it could be."""

    ids: tuple[str, ...]  # one per image; empty: no job
    job: PoppedJob | None  # None with ids: the job could not be read, `problem` says why
    problem: str = ""
    skipped: Mapping[str, int]  # requests not handed out, by reason; zeros left out
    messages: tuple[WorkerMessage, ...]


def pop_request(settings: HordeSettings, models: list[str], amount: int) -> PopRequest:
    """The pop that asks for `amount` images of `models`, the lists cut to what the server takes."""
    return PopRequest(
        name=settings.worker_name,
        models=[name for name in models if len(name) >= _SHORTEST_MODEL_NAME][:_MAX_MODELS],
        bridge_agent=settings.bridge_agent,
        amount=amount,
        max_pixels=settings.max_pixels,
        threads=settings.threads,
        nsfw=settings.nsfw,
        blacklist=list(settings.blacklist[:_MAX_BLACKLIST]),
        priority_usernames=list(settings.priority_usernames),
        require_upfront_kudos=settings.require_upfront_kudos,
        extra_slow_worker=settings.extra_slow_worker,
        limit_max_steps=settings.limit_max_steps,
        allow_img2img=settings.allow_img2img,
        allow_unsafe_ipaddr=settings.allow_unsafe_ipaddr,
        wallet_address=settings.wallet_address or msgspec.UNSET,
    )


def read_pop(body: bytes) -> Popped:
    """The answer to a pop.

    "No job" is no empty answer: it carries a whole default payload, so only the ids tell.

    Raises: TransportError: not a pop's answer; if there was a job in it, its ids cannot be told either.
    """
    try:
        head = _read(body, _Head, "pop")
    except TransportError as error:
        if not (ids := _ids(body)):
            raise
        return Popped(ids=ids, job=None, problem=f"job {ids[0]} cannot be read: {error}", skipped={}, messages=())
    job, problem = None, ""
    ids = tuple(head.ids or (head.id,)) if head.id else ()
    if any(len(one) > MAX_ID_CHARACTERS for one in ids):
        raise TransportError(
            f"the answer of pop has an id of over {MAX_ID_CHARACTERS} characters; its job is left alone"
        )
    if len(ids) > MAX_POP_IMAGES:
        problem = f"job {ids[0]} has {len(ids)} images, and a pop brings {MAX_POP_IMAGES} at most"
        ids = ids[:MAX_POP_IMAGES]  # that many are handed back, the others run out of time
    elif ids:
        try:
            job = msgspec.json.decode(body, type=PoppedJob)
        except UNREADABLE as error:
            problem = f"job {ids[0]} cannot be read: {error}"
    return Popped(ids=ids, job=job, problem=problem, skipped=_skipped(head.skipped), messages=_messages(head.messages))


def read_reward(body: bytes) -> float:
    """Kudos of an accepted image. Raises: TransportError: not a submit's answer."""
    return _read(body, _Reward, "submit").reward


def read_user(body: bytes) -> User:
    """The account behind the key. Raises: TransportError: not a user."""
    user = _read(body, User, "find_user")
    return msgspec.structs.replace(user, username=shown(user.username))


def read_worker(body: bytes) -> WorkerRecord:
    """A worker as the server knows it. Raises: TransportError: not a worker."""
    return _read(body, WorkerRecord, "workers")


def _read(body: bytes, kind: type[T], endpoint: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise TransportError(f"the answer of {endpoint} cannot be read ({error})") from error


def _ids(body: bytes) -> tuple[str, ...]:
    """The ids of a job whose pop cannot be read: the server has given it to us and must get it back.

    The usual case is half of a surrogate pair in a prompt. Of other bodies, the list of ids may still be whole.
    """
    text = body.decode(errors="replace")
    try:
        head = msgspec.json.decode(replace_lone_surrogates(text), type=_Head)
        found = head.ids or ([head.id] if head.id else [])
    except UNREADABLE:
        listed = _LISTED_IDS.search(text)
        found = _QUOTED.findall(listed.group(1)) if listed else []
    return tuple(each for each in found if each and each.isprintable())


def _skipped(raw: msgspec.Raw) -> Mapping[str, int]:
    try:
        counts = msgspec.json.decode(raw, type=dict[str, int] | None) or {}
    except UNREADABLE:
        return {}  # statistics only: not worth a job
    named = ((shown(reason, _REASON_SHOWN), count) for reason, count in counts.items() if count)
    return dict(islice(named, _MOST_REASONS))


def _messages(raw: msgspec.Raw) -> tuple[WorkerMessage, ...]:
    try:
        messages = msgspec.json.decode(raw, type=list[WorkerMessage] | None) or ()
    except UNREADABLE:
        return ()  # not worth a job either
    return tuple(
        WorkerMessage(
            id=message.id[:_ID_KEPT],
            message=shown(message.message, _MESSAGE_SHOWN),
            origin=shown(message.origin, _REASON_SHOWN) if message.origin else message.origin,
        )
        for message in messages[:_MOST_MESSAGES]
    )
