"""What the end of a connection means: its close code, and the message that came before it.

Source: the AIPG coordinator's worker socket, observed. Its 4003 covers everything from a name that is taken to a
retired model, so there the message decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trt_engines.text import shown

NAME_TAKEN = 1012


class Verdict(StrEnum):
    """What to do after a connection has ended."""

    RETRY = "retry"  # with growing waits
    EVICTED = "evicted"  # with the waits of the grid's own ladder
    RETIRED = "retired"  # without the models in `Reaction.models`
    TAKEN = "taken"  # leave this name to whoever has it now
    FATAL = "fatal"  # the operator must change something first


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """A verdict, and why in the operator's words."""

    verdict: Verdict
    sentence: str
    models: tuple[str, ...] = ()


_FATAL = (
    ("lacks worker.connect", "the API key may not run workers; create one with the scope worker.connect"),
    ("targets another rig", "the API key belongs to another worker name; use that name, with one connection"),
    ("another account", "the worker name belongs to another account; choose another name or use that account's key"),
    ("approved managed profile", "the grid takes this worker for an audio worker; report it as a defect"),
    ("identity", "the grid does not take this worker's identity; check its key and delegation"),
    ("proof", "the grid does not take this worker's identity; check its key and delegation"),
    ("delegation", "the grid does not take this worker's identity; check its key and delegation"),
)
_AGAIN = ("stale", "already used", "retry shortly")
_RETIRED = "retired model identity:"
_SHOWN = 200


def react(code: int | None, message: str = "") -> Reaction:
    """What to do after a connection has ended.

    Args:
        code: close code; None: it broke without one.
        message: of the error frame before, or empty.
    """
    said = " ".join(message.split())
    told = f"closed with {code or 'no code'}{f' ({shown(said, _SHOWN)})' if said else ''}"
    if code == 4001:
        return Reaction(
            verdict=Verdict.FATAL, sentence=f"{told}: the API key or the worker name is not accepted; correct it"
        )
    if code == NAME_TAKEN:
        return Reaction(verdict=Verdict.TAKEN, sentence=f"{told}: the name is in use by another connection")
    if code == 4003:
        return _refused(said, told)
    return Reaction(verdict=Verdict.RETRY, sentence=told)


def _refused(said: str, told: str) -> Reaction:
    lower = said.lower()
    if lower.startswith(_RETIRED):
        models = tuple(name for part in said[len(_RETIRED) :].split(",") if (name := part.strip()))
        return Reaction(verdict=Verdict.RETIRED, sentence=f"{told}: not offered any more", models=models)
    if "evicted" in lower:
        return Reaction(verdict=Verdict.EVICTED, sentence=told)
    if any(mark in lower for mark in _AGAIN):
        return Reaction(verdict=Verdict.RETRY, sentence=told)
    for mark, advice in _FATAL:
        if mark in lower:
            return Reaction(verdict=Verdict.FATAL, sentence=f"{told}: {advice}")
    return Reaction(verdict=Verdict.RETRY, sentence=told)
