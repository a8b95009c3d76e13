"""The status block: the tally in one screen of plain lines, each with a label at its start to search for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trt_worker.network_state import NetworkState
from trt_worker.telemetry.metrics import Latency, Scope, Snapshot, Speed

LABEL_WIDTH = 10
"""Columns of a label; lines that go on are indented by as many."""

MOST_FALLBACKS = 5
"""Reasons shown, the most frequent first."""

LEAST_WIDTH = 40
"""Narrower terminals get lines of this width."""

_SEPARATOR = " | "
_UNKNOWN = "-"


def status_block(snapshot: Snapshot, width: int, *, advise: bool = True) -> list[str]:
    """Lines for the operator, none wider than `width` columns (at least 40).

    The labels and their order never change, so that a log can be searched for them. `advise`: say what helps a slow
    rig.
    """
    rows = (
        ("Session", _session(snapshot)),
        ("Settled", _settled(snapshot)),
        ("Earned", _earned(snapshot)),
        ("MPS/S", [_speed(scope, snapshot.speeds[scope]) for scope in Scope]),
        ("Speed", _class(snapshot, advise)),
        ("Batch", _batch(snapshot)),
        ("Seconds", _latency(snapshot.latency)),
        ("Networks", [field for network in snapshot.networks for field in _network(network)] or [_UNKNOWN]),
        ("Fallbacks", _fallbacks(snapshot)),
    )
    return [line for label, fields in rows for line in _lines(label, fields, max(width, LEAST_WIDTH))]


def _session(snapshot: Snapshot) -> list[str]:
    return [
        _duration(snapshot.session_seconds),
        f"{snapshot.jobs} jobs",
        f"{snapshot.images} images",
        f"{snapshot.queue} queued",
    ]


def _settled(snapshot: Snapshot) -> list[str]:
    return [f"{settlement.value} {count}" for settlement, count in snapshot.settled.items()]


def _earned(snapshot: Snapshot) -> list[str]:
    if not snapshot.earned:
        return [_UNKNOWN]
    hint = " (extrapolated)" if snapshot.extrapolated else ""
    return [
        f"{earning.total:.2f} {unit}, {earning.per_hour:.2f} {unit}/h{hint}"
        for unit, earning in snapshot.earned.items()
    ]


def _speed(scope: Scope, speed: Speed) -> str:
    return f"{scope.value} {_number(speed.window)} (session {_number(speed.session)})"


def _class(snapshot: Snapshot, advise: bool) -> list[str]:
    judged = snapshot.speed_class
    if judged is None:
        return [_UNKNOWN]
    fields = [f"{judged.value}, {_number(snapshot.network_speed)} as the network counts"]
    return [*fields, judged.advice] if judged.advice and advise else fields


def _batch(snapshot: Snapshot) -> list[str]:
    return [f"{_number(snapshot.occupancy)} rows per engine call", f"{snapshot.engine_calls} calls"]


def _latency(latency: Latency) -> list[str]:
    return [
        f"waiting {_number(latency.waiting)}",
        f"making {_number(latency.making)}",
        f"handing in {_number(latency.handing_in)}",
    ]


def _network(network: NetworkState) -> Iterable[str]:
    yield (
        f"{network.network}: {network.connected} of {network.connections} connected, {network.busy} busy, "
        f"{network.reconnects} reconnects"
    )
    for what, reasons in (
        ("not offered", network.withdrawn),
        ("recipes not served", network.unserved),
        ("names lost", network.lost),
    ):
        for subject, reason in list(reasons.items())[:1]:  # the metrics name all, the log has all their reasons
            yield _one_line(f"{len(reasons)} {what}: {subject}: {reason}")
    yield from map(_one_line, network.notes)


def _fallbacks(snapshot: Snapshot) -> list[str]:
    if not snapshot.fallbacks:
        return ["none"]
    reasons = list(snapshot.fallbacks.items())
    fields = [f"{count} x {_one_line(reason)}" for reason, count in reasons[:MOST_FALLBACKS]]
    return [*fields, f"and {len(reasons) - MOST_FALLBACKS} more reasons"] if len(reasons) > MOST_FALLBACKS else fields


def _lines(label: str, fields: Sequence[str], width: int) -> Iterable[str]:
    """Fields in as few lines as they fit; a field too long for a line of its own is cut."""
    room = width - LABEL_WIDTH
    lines: list[str] = []
    for field in fields:
        field = field if len(field) <= room else field[: room - 3] + "..."
        if lines and len(lines[-1]) + len(_SEPARATOR) + len(field) <= room:
            lines[-1] += _SEPARATOR + field
        else:
            lines.append(field)
    for number, line in enumerate(lines):
        yield f"{label if number == 0 else '':<{LABEL_WIDTH}}{line}"


def _one_line(text: str) -> str:
    """Text without line breaks, tabs and control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m {rest:02} s" if hours else f"{minutes} m {rest:02} s"
