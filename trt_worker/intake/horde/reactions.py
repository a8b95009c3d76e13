"""What an answer of the server means for the worker.

Decided by status and `rc`, never by the text: texts are translated, sanitised and appended to by the server. Three
shapes of error body exist: `{"message", "rc"}`, `{"message", "errors": {field: text}}` from the schema check, and
`{"message"}` alone; what stands in front of the server adds HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from trt_engines.text import shown
from trt_worker.intake.horde.messages import UNREADABLE


class Endpoint(StrEnum):
    """Calls a worker makes; the value is how messages name them."""

    POP = "pop"
    SUBMIT = "submit"
    FIND_USER = "find_user"
    WORKER = "workers"  # look one up, or change it
    STATUS = "status"


class Verdict(StrEnum):
    """What to do after an answer."""

    DONE = "done"  # it worked
    RETRY = "retry"  # the same call again, with growing waits
    SLOW_DOWN = "slow_down"  # the same call again, after `Reaction.seconds`
    MAINTENANCE = "maintenance"  # go on asking, slowly: the owner's own jobs still come
    DROP = "drop"  # this call is over, everything else goes on
    FATAL = "fatal"  # the operator must change something first


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """A verdict, for how long, and why."""

    verdict: Verdict
    sentence: str = ""  # for the operator
    seconds: float = 0.0  # SLOW_DOWN and MAINTENANCE: how long to wait
    counted: bool = False  # the network counts the image as dropped by this worker


RETIRED = "this server retired the Horde API; use the grid transport"

_SLOW = 60.0
_VERY_SLOW = 600.0
_LONGEST_WAIT = 3600.0
_TEXT_SHOWN = 300
_CODE_SHOWN = 60

_SECONDS = re.compile(r"(\d{1,6})(?:\.\d+)?\s*(?:more\s+)?s(?:ec|\b)", re.IGNORECASE)

_KEY = "the API key is not valid; put the key of a registered account into the configuration"
_NAME = "the worker name cannot be used; choose another one"
_ACCOUNT = "the account may not run this worker; delete workers that are not used any more, or ask the Horde's staff"

_FATAL_EVERYWHERE: Mapping[str, str] = {
    "InvalidAPIKey": _KEY,
    "AnonForbiddenWorker": "the anonymous key cannot run a worker; register an account and use its key",
    "DeletedUser": "the account was deleted; use the key of another one",
}

_FATAL_AT_POP: Mapping[str, str] = {
    "WrongCredentials": "the worker name belongs to another account; choose another name or use that account's key",
    "PolymorphicNameConflict": "the name is taken by a worker of another kind; choose another one",
    "ProfaneWorkerName": _NAME,
    "ProfaneBridgeAgent": "the server does not take this bridge_agent; change it",
    "InvalidPriorityUsername": "a priority username is not written as name#number; correct it",
    "BadRequest": "the server does not take this worker's name or any of its models; change what its message names",
    "WorkerFlaggedMaintenance": "the account is flagged; talk to the Horde's staff",
    "WorkerInviteOnly": "new workers need an invitation on this Horde; ask its staff for one",
    "TooManyWorkers": _ACCOUNT,
    "TooManyWorkersTrusted": _ACCOUNT,
    "TooManySameIPs": _ACCOUNT,
    "Forbidden": _ACCOUNT,
}

_SLOW_AT_POP: Mapping[str, tuple[float, str]] = {
    "TimeoutIP": (_VERY_SLOW, "this address is in time-out on the Horde"),
    "TooManyNewIPs": (_VERY_SLOW, "the Horde cannot check this address now"),
    "UnsafeIP": (_VERY_SLOW, "the Horde takes this address for a VPN or proxy; use another one, or become trusted"),
    "MaintenanceMode": (_SLOW, "the Horde is in maintenance"),
}

_AT_SUBMIT: Mapping[str, Reaction] = {
    "DuplicateGen": Reaction(verdict=Verdict.DONE, sentence="the result was already recorded"),
    "AbortedGen": Reaction(
        verdict=Verdict.DROP, sentence="the server had given the image up already: too late", counted=True
    ),
    "InvalidJobID": Reaction(verdict=Verdict.DROP, sentence="the request is gone: expired or cancelled"),
    "WrongCredentials": Reaction(verdict=Verdict.DROP, sentence="the job belongs to a worker of another account"),
}

_FATAL_AT_FIND_USER: Mapping[str, str] = {"UserNotFound": _KEY}


def react(endpoint: Endpoint, status: int, body: bytes, retry_after: float | None = None) -> Reaction:
    """What to do after one answer.

    Args:
        status: HTTP status.
        retry_after: the header, in seconds. Every answer of these servers carries one; only 429 and 503 mean it.
    """
    if 200 <= status < 300:
        return Reaction(verdict=Verdict.DONE)
    rc, text, errors = _error(body)
    told = f"{endpoint}: HTTP {status}{f' {rc}' if rc else ''}{f' ({text})' if text else ''}"
    if status == 410:
        return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: {RETIRED}")
    if status == 429:
        seconds = _bounded(retry_after or 1.0)
        return Reaction(verdict=Verdict.SLOW_DOWN, sentence=f"{told}: too many calls", seconds=seconds)
    known = _by_code(endpoint, rc, text, told)
    if known is not None:
        return known
    if errors:
        return _by_schema(endpoint, errors, told)
    if status == 503 and retry_after:
        return Reaction(verdict=Verdict.SLOW_DOWN, sentence=told, seconds=_bounded(retry_after))
    if status >= 500 or status in {408, 425}:
        return Reaction(verdict=Verdict.RETRY, sentence=told)
    return _by_status(endpoint, status, told)


def _by_code(endpoint: Endpoint, rc: str, text: str, told: str) -> Reaction | None:
    fatal = dict(_FATAL_EVERYWHERE)
    if endpoint is Endpoint.POP:
        fatal |= _FATAL_AT_POP
        if rc == "WorkerMaintenance":
            return Reaction(verdict=Verdict.MAINTENANCE, sentence=text or told, seconds=_SLOW)
        if rc in _SLOW_AT_POP:
            seconds, why = _SLOW_AT_POP[rc]
            named = _SECONDS.search(text) if rc == "TimeoutIP" else None
            seconds = _bounded(float(named.group(1))) if named else seconds
            return Reaction(verdict=Verdict.SLOW_DOWN, sentence=f"{told}: {why}", seconds=seconds)
    elif endpoint is Endpoint.SUBMIT and rc in _AT_SUBMIT:
        return _AT_SUBMIT[rc]
    elif endpoint is Endpoint.FIND_USER:
        fatal |= _FATAL_AT_FIND_USER
    if rc in fatal:
        return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: {fatal[rc]}")
    return None


def _by_schema(endpoint: Endpoint, errors: Mapping[str, Any], told: str) -> Reaction:
    """The server's schema check refused the call: a header is missing, or this worker is wrong about the protocol."""
    if "apikey" in errors:
        return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: {_KEY}")
    fields = shown("; ".join(f"{name}: {text}" for name, text in errors.items()), _TEXT_SHOWN)
    sentence = f"{told}: the server does not take {fields}"
    if endpoint is Endpoint.POP:
        return Reaction(verdict=Verdict.FATAL, sentence=f"{sentence}; check these settings, or report it as a defect")
    return Reaction(verdict=Verdict.DROP, sentence=f"{sentence}; report it as a defect of the worker")


def _by_status(endpoint: Endpoint, status: int, told: str) -> Reaction:
    """Answers below 500 that nobody gave a code: mostly from what stands in front of the server."""
    if status == 401:
        return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: {_KEY}")
    if endpoint in {Endpoint.SUBMIT, Endpoint.WORKER, Endpoint.STATUS}:
        return Reaction(verdict=Verdict.DROP, sentence=told)
    if endpoint is Endpoint.FIND_USER and (status == 404 or 300 <= status < 400):
        return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: there is no Horde API at this address; check the url")
    if status == 403:
        return Reaction(verdict=Verdict.SLOW_DOWN, sentence=f"{told}: refused, asking again later", seconds=_VERY_SLOW)
    return Reaction(verdict=Verdict.SLOW_DOWN, sentence=f"{told}: not understood, asking again later", seconds=_SLOW)


def _error(body: bytes) -> tuple[str, str, Mapping[str, Any]]:
    """Code, text and schema errors of an error body; empty where there is none."""
    try:
        found = msgspec.json.decode(body)
    except UNREADABLE:
        return "", "", {}
    if not isinstance(found, dict):
        return "", "", {}
    rc, text, errors = found.get("rc"), found.get("message"), found.get("errors")
    return (
        shown(rc, _CODE_SHOWN) if isinstance(rc, str) else "",
        shown(" ".join(text.split()), _TEXT_SHOWN) if isinstance(text, str) else "",
        errors if isinstance(errors, dict) else {},
    )


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.1), _LONGEST_WAIT)
