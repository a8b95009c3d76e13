"""Which engines to drop: the decision takes values and gives values, `prune` looks and removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trt_engines.store.manifest import Manifest
from trt_engines.store.store import Entry, Store, Unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may go."""

    failed: bool = True  # engines that failed their certificate, or are damaged
    superseded: bool = True  # engines that a newer one does the work of
    installed: Mapping[str, str] = field(default_factory=dict)  # library -> its version here; others' engines are kept
    unfinished_after: float | None = 7 * 86400.0  # seconds since a stopped build was last written to; None: keep
    budget: int | None = None  # bytes that all engines together may take; None: any


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One folder that goes, and why."""

    digest: str
    unfinished: bool
    size: int  # bytes
    reason: str


def choose(
    engines: Sequence[Entry], unfinished: Sequence[Unfinished], policy: Policy, now: float
) -> tuple[Removal, ...]:
    """What to remove, in the order in which to remove it.

    Engines that a newer worker made are kept: this one cannot tell what they are for.

    Args:
        now: seconds since 1970.
    """
    removals = [
        Removal(digest=one.digest, unfinished=True, size=one.size, reason=f"stopped {_age(now - one.changed)} ago")
        for one in unfinished
        if policy.unfinished_after is not None and not one.held and now - one.changed > policy.unfinished_after
    ]
    newest = _newest(engines)
    kept: list[Entry] = []
    for entry in engines:
        if reason := _reason(entry, newest, policy):
            removals.append(Removal(digest=entry.digest, unfinished=False, size=entry.size, reason=reason))
        else:
            kept.append(entry)
    if policy.budget is not None:
        over = sum(entry.size for entry in kept) - policy.budget
        for entry in sorted(kept, key=lambda one: (one.last_used, one.digest)):
            if over <= 0:
                break
            if entry.state != "newer":
                over -= entry.size
                reason = f"over the budget, last used {_age(now - entry.last_used)} ago"
                removals.append(Removal(digest=entry.digest, unfinished=False, size=entry.size, reason=reason))
    return tuple(removals)


def prune(store: Store, policy: Policy, now: float, *, dry_run: bool = False) -> tuple[Removal, ...]:
    """Remove what the policy lets go, and what earlier removals left; gives what went.

    What another process is building or importing stays. Engines that are loaded stay usable: their bytes are given back
    when the last process lets go of them.

    Raises: OSError.
    """
    chosen = choose(store.entries(), store.unfinished(), policy, now)
    if dry_run:
        return chosen
    removed = tuple(one for one in chosen if store.remove(one.digest, unfinished=one.unfinished))
    store.empty_trash()
    return removed


def _reason(entry: Entry, newest: Mapping[object, Manifest], policy: Policy) -> str:
    if entry.state in {"failed", "damaged"}:
        if not policy.failed:
            return ""
        return "failed its certificate" if entry.state == "failed" else "damaged"
    if entry.manifest is None:  # a newer worker's
        return ""
    identity = entry.manifest.identity
    here = policy.installed.get(identity.library)
    if here is not None and here != identity.library_version:
        return f"built with {identity.library} {identity.library_version}, {here} is installed"
    latest = newest.get(_place(entry.manifest))
    if policy.superseded and latest is not None and latest.created > entry.manifest.created:
        return f"superseded by {latest.digest[:12]}"
    return ""


def _newest(engines: Sequence[Entry]) -> dict[object, Manifest]:
    """The latest engine that can be served, for each place that one can take."""
    newest: dict[object, Manifest] = {}
    for entry in engines:
        if entry.state == "ready" and entry.manifest is not None:
            known = newest.get(_place(entry.manifest))
            if known is None or entry.manifest.created > known.created:
                newest[_place(entry.manifest)] = entry.manifest
    return newest


def _place(manifest: Manifest) -> object:
    """What an engine is for: engines of one place differ in graph, weights or library version only."""
    identity = manifest.identity
    return (
        frozenset(manifest.models),
        identity.architecture,
        identity.component,
        identity.precision,
        identity.profiles,
        tuple(identity.flags.items()),
        identity.library,
        identity.compute_capabilities,
        identity.driver_class,
    )


def _age(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
