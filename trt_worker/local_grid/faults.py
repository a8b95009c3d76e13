"""What can be made to go wrong, how often, and the seeded generator that decides when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way of misbehaving: passes over the first `after` occasions, then strikes with `probability`."""

    count: int | None = 1  # strikes at most this often; None: no limit
    probability: float = 1.0
    after: int = 0  # occasions to let pass first
    seconds: float = 0.0  # how long a delay takes, or how long after the occasion it strikes
    code: int = 0  # HTTP status or close code, where the kind has a choice; 0: the kind's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All switches; None is healthy. Replace the whole value on a running grid to change them."""

    # WebSocket
    drop_before_ready: Fault | None = None  # the socket dies after the register frame
    refuse_register: Fault | None = None  # error frame and close `code` (4003: "recently evicted")
    drop_mid_job: Fault | None = None  # the socket dies `seconds` after a job was sent
    close_mid_job: Fault | None = None  # a close frame with `code` (1012) instead
    close_idle: Fault | None = None  # a close frame with `code` (1012) in place of a ping
    drop_after_done: Fault | None = None  # the socket dies before the result was settled: the job goes back
    drop_ack: Fault | None = None  # the result was settled and paid, the socket dies before the acknowledgement
    no_ack: Fault | None = None  # the settlement failed: unpaid, no acknowledgement, the next job follows
    late_ack: Fault | None = None  # the acknowledgement takes `seconds`
    duplicate_ack: Fault | None = None  # the acknowledgement arrives twice
    malformed_frame: Fault | None = None  # half a JSON object before a job
    wrong_frame: Fault | None = None  # well-formed frames that mean nothing before a job
    late_job: Fault | None = None  # a job is held back until its customer has given up, then sent
    # the grid's pages
    recipe_error: Fault | None = None  # the recipes of a model answer `code` (500)
    # storage
    slow_upload: Fault | None = None  # a PUT is answered `seconds` late
    put_error: Fault | None = None  # a PUT is answered `code` (500), nothing is stored
    put_cut: Fault | None = None  # the connection dies during a PUT
    put_lost: Fault | None = None  # a PUT is answered 200, nothing is stored
    source_error: Fault | None = None  # a source image answers `code` (500)
    source_slow: Fault | None = None  # a source image is answered `seconds` late
    # Horde v2
    pop_error: Fault | None = None  # `code` (500)
    pop_limited: Fault | None = None  # 429 with Retry-After `seconds`
    pop_silent: Fault | None = None  # a pop is answered `seconds` late
    pop_cut: Fault | None = None  # a pop hands out a job, the connection dies before the answer
    submit_error: Fault | None = None  # `code` (500), the result was not taken
    submit_limited: Fault | None = None  # 429 with Retry-After `seconds`
    lost_submit: Fault | None = None  # the result is taken and paid, the connection dies before the answer
    maintenance: Fault | None = None  # a pop meets maintenance mode
    retired: Fault | None = None  # the whole API answers 410


KINDS = frozenset(entry.name for entry in fields(Faults))


class FaultInjector:
    """Decides, occasion by occasion, whether a fault strikes."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._faults = Faults()
        self._armed: dict[str, Fault] = {}
        self._occasions: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()  # strikes since the start, by kind

    @property
    def faults(self) -> Faults:
        """The switches as they stand."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        """Replace them; every count starts again."""
        self._faults = faults
        self._armed = {kind: fault for kind in KINDS if (fault := getattr(faults, kind)) is not None}
        self._occasions.clear()
        self._struck_now: Counter[str] = Counter()

    def strike(self, kind: str) -> Fault | None:
        """The fault of this kind if it strikes on this occasion.

        Raises: KeyError: there is no such kind.
        """
        fault = self._armed.get(kind)
        if fault is None:
            if kind not in KINDS:
                raise KeyError(f"no fault is called {kind!r}; known are {', '.join(sorted(KINDS))}")
            return None
        self._occasions[kind] += 1
        if self._occasions[kind] <= fault.after:
            return None
        if fault.count is not None and self._struck_now[kind] >= fault.count:
            return None
        if fault.probability < 1.0 and self._random.random() >= fault.probability:
            return None
        self._struck_now[kind] += 1
        self.struck[kind] += 1
        return fault
