"""Frames of the worker WebSocket: one JSON object per text message, told apart by `type`.

Whatever surrounds a job is read leniently, so that a frame with one odd field still says whose job it is; `translate`
judges the fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trt_worker.intake.surrogates import replace_lone_surrogates

UNREADABLE = (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError)
"""What decoding hostile JSON can raise."""

_SHOWN = 80
_LONGEST_ID = 255
_BEGINNING = re.compile(r'\s*\{\s*"type"\s*:\s*"job"\s*,\s*"id"\s*:\s*"([^"\\]+)"')


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """We are registered."""

    worker_id: Any = ""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """The connection is idle as far as the server knows."""


class Job(msgspec.Struct, frozen=True, tag_field="type", tag="job"):
    """A job, the connection's current one from now on."""

    id: str
    job_type: Any = ""
    model: Any = ""
    payload: Any = None
    upload: Any = None


class Ack(msgspec.Struct, frozen=True, tag_field="type", tag="ack"):
    """A job is closed."""

    id: Any = ""
    den: Any = 0.0

    @property
    def reward(self) -> float:
        """Den paid; 0 when the frame holds no usable number."""
        if isinstance(self.den, bool) or not isinstance(self.den, int | float):
            return 0.0
        try:
            den = float(self.den)
        except OverflowError:
            return 0.0
        return den if math.isfinite(den) else 0.0


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """Why the registration is refused; the connection is closed next."""

    message: Any = ""


class Cancel(msgspec.Struct, frozen=True, tag_field="type", tag="cancel"):
    """Nobody waits for a job any more; documented for text jobs only."""

    id: Any = ""


Frame = Ready | Ping | Job | Ack | Error | Cancel


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no frame we know. Ignored, as the protocol asks for unknown types, unless it brings a job."""

    reason: str
    job_id: str = ""  # of the job that it brings, as far as that can be told: the grid has given it to us


_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def parse_frame(text: str | bytes) -> Frame | Unreadable:
    """One message. Never raises."""
    try:
        return _decoder.decode(text)
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"
        return Unreadable(reason, _job_id(text))


def _job_id(text: str | bytes) -> str:
    """Whose job an unreadable frame brings; empty: nobody's that can be told.

    The usual case is half of a surrogate pair in a prompt. Of a frame that is cut off, its beginning tells.
    """
    text = text if isinstance(text, str) else text.decode(errors="replace")
    try:
        frame = _decoder.decode(replace_lone_surrogates(text))
        job_id = frame.id if isinstance(frame, Job) else ""
    except UNREADABLE:
        found = _BEGINNING.match(text)
        job_id = found.group(1) if found else ""
    return job_id if job_id.isprintable() and len(job_id) <= _LONGEST_ID else ""


def register_frame(
    *, key: str, name: str, models: Sequence[str], bridge_agent: str, identity: Mapping[str, Any] | None = None
) -> str:
    """The first frame of a connection; it carries the API key, and the rig's proof when there is one."""
    proof = {} if identity is None else {"worker_identity": identity}
    advertised = {"name": name, "models": list(models), "job_types": ["image"], "bridge_agent": bridge_agent}
    return _dump({"apikey": key, **advertised, **proof})


PONG = '{"type":"pong"}'


def progress_frame(job_id: str, percent: int) -> str:
    """How far a job is, 0..100."""
    return _dump({"type": "progress", "id": job_id, "pct": percent})


def done_frame(job_id: str, results: Sequence[tuple[int, str, int]], signature: str | None = None) -> str:
    """A result: (index, SHA-256 in lower-case hex, seed) of every image, and whose signature is under it."""
    entries = [{"index": index, "sha256": digest, "seed": seed} for index, digest, seed in results]
    signed = {} if signature is None else {"worker_sig": signature}
    return _dump({"type": "done", "id": job_id, "results": entries, **signed})


def error_frame(job_id: str, message: str) -> str:
    """A job is given up; its customer reads the message as it is."""
    return _dump({"type": "error", "id": job_id, "message": message})


def _dump(frame: Mapping[str, Any]) -> str:
    return msgspec.json.encode(frame).decode()
