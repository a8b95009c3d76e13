"""Every job with its life, and what must hold over all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import anyio


class Outcome(StrEnum):
    """How the customer's wait ended."""

    DELIVERED = "delivered"
    WORKER_ERROR = "worker_error"  # the worker reported that it could not do it
    REJECTED = "rejected"  # the result did not pass verification
    GIVEN_UP = "given_up"  # nobody could do it
    TIMED_OUT = "timed_out"  # the customer left first
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Entry:
    """One job. Times are time.monotonic() seconds."""

    id: str
    transport: str  # "grid" or "horde"
    model: str
    images: int
    submitted: float
    dispatched: list[tuple[float, str]] = field(default_factory=list)  # when, to which connection or worker
    requeued: int = 0
    done: float | None = None  # a result arrived, last time
    closed: float | None = None  # acknowledged or refused, last time
    acks: int = 0  # acknowledgement frames or submit answers sent
    payments: list[tuple[str, float]] = field(default_factory=list)  # what was paid for (job or image id), den or kudos
    answers: list[Outcome] = field(default_factory=list)  # what the customer was told; exactly one in the end

    @property
    def reward(self) -> float:
        """Den or kudos paid for the job."""
        return sum(amount for _, amount in self.payments)


class Ledger:
    """The grid's own books, kept for the tests."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.counts: Counter[str] = Counter()  # submitted, dispatched, requeued, done, acked, paid, answered
        self.outcomes: Counter[Outcome] = Counter()
        self.offences: list[str] = []  # what a worker did that the protocol forbids
        self.notes: list[str] = []  # what a worker did that costs it something and is allowed
        self._open = 0
        self._all_answered = anyio.Event()
        self._all_answered.set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, job_id: str) -> Entry:
        return self._entries[job_id]

    def submit(self, job_id: str, *, transport: str, model: str, images: int) -> Entry:
        """Open the account of a new job."""
        entry = Entry(id=job_id, transport=transport, model=model, images=images, submitted=time.monotonic())
        self._entries[job_id] = entry
        self.counts["submitted"] += 1
        if self._open == 0:
            self._all_answered = anyio.Event()
        self._open += 1
        return entry

    def dispatch(self, entry: Entry, worker: str) -> None:
        """A worker was handed the job."""
        entry.dispatched.append((time.monotonic(), worker))
        self.counts["dispatched"] += 1

    def requeue(self, entry: Entry) -> None:
        """The job is back in the queue."""
        entry.requeued += 1
        self.counts["requeued"] += 1

    def done(self, entry: Entry) -> None:
        """A result arrived, not yet looked at."""
        entry.done = time.monotonic()
        self.counts["done"] += 1

    def pay(self, entry: Entry, what: str, amount: float) -> None:
        """Den or kudos were booked for the job or one of its images."""
        entry.payments.append((what, amount))
        self.counts["paid"] += 1

    def ack(self, entry: Entry) -> None:
        """The worker was told that its result counts."""
        entry.acks += 1
        entry.closed = time.monotonic()
        self.counts["acked"] += 1

    def answer(self, entry: Entry, outcome: Outcome) -> None:
        """The customer was told how it ended."""
        entry.answers.append(outcome)
        self.counts["answered"] += 1
        self.outcomes[outcome] += 1
        if len(entry.answers) == 1:
            self._open -= 1
            if self._open == 0:
                self._all_answered.set()

    @property
    def open(self) -> int:
        """Jobs whose customer still waits."""
        return self._open

    async def all_answered(self) -> None:
        """Return once no customer waits any more."""
        while self._open:
            await self._all_answered.wait()

    def violations(self, alive: Iterable[str] = ()) -> list[str]:
        """Everything that must not happen and did, in words; empty is right.

        Args:
            alive: jobs that are queued or with a worker right now: they need no answer yet.
        """
        living = set(alive)
        found = list(self.offences)
        for entry in self._entries.values():
            if len(entry.answers) > 1:
                found.append(f"job {entry.id}: answered {len(entry.answers)} times ({', '.join(entry.answers)})")
            if not entry.answers and entry.id not in living:
                found.append(f"job {entry.id}: lost, neither answered nor queued nor with a worker")
            twice = [what for what, times in Counter(what for what, _ in entry.payments).items() if times > 1]
            found.extend(f"job {entry.id}: {what} was paid twice" for what in twice)
            if len(entry.payments) > entry.images:
                found.append(f"job {entry.id}: {len(entry.payments)} payments for {entry.images} images")
        return found
