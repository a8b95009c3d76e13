"""Which fault strikes when: decided by a seed and the number of a call, in whatever process that call is made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from random import Random

import msgspec

from trt_engines.errors import EngineFault

VARIABLE = "TRT_WORKER_FAULTS"
"""What a process finds its script in: JSON, as `FaultScript.environment` writes it."""


class Fault(StrEnum):
    """What can become of a load or a call."""

    FULL_AT_LOAD = "out of memory at load"
    STALE = "corrupted plan"
    FULL = "out of memory in a call"
    NOT_FINITE = "NaN in an output"
    STICKY = "sticky error"
    HANG = "hang"


AT_LOAD = (Fault.FULL_AT_LOAD, Fault.STALE)
IN_CALL = (Fault.FULL, Fault.NOT_FINITE, Fault.STICKY, Fault.HANG)


class FaultScript(msgspec.Struct, frozen=True):
    """Faults to come.

    Loads and calls are numbered over all processes of a script, in files, for no process outlives its faults. The
    number of a load or call says with the seed what becomes of it.
    """

    seed: int
    rates: dict[Fault, float]  # share of the loads, or of the calls, that it strikes
    folder: str  # of the files, empty at first

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process find it."""
        return {VARIABLE: msgspec.json.encode(self).decode()}

    def fate(self, of: Sequence[Fault], number: int) -> Fault | None:
        """Which of some faults strikes the load or call of a number; None: it is spared."""
        drawn = Random(f"{self.seed} {of[0]} {number}").random()
        for fault in of:
            drawn -= self.rates.get(fault, 0.0)
            if drawn < 0:
                return fault
        return None

    def count(self, what: str) -> int:
        """Count one more of something. Returns: its number over all processes, from 0."""
        with Path(self.folder, what).open("ab", buffering=0) as file:
            file.write(b".")  # appends are atomic, and leave the position behind their own byte
            return file.tell() - 1

    def strikes(self) -> Counter[Fault]:
        """How often each fault has struck so far."""
        files = {fault: Path(self.folder, fault) for fault in Fault}
        return Counter({fault: file.stat().st_size for fault, file in files.items() if file.exists()})


def script_of_process() -> FaultScript:
    """The script this process was given. Raises: EngineFault: none, or it is unreadable."""
    try:
        return msgspec.json.decode(os.environ[VARIABLE], type=FaultScript)
    except (KeyError, msgspec.MsgspecError) as error:
        raise EngineFault(f"the faulty backend needs a script of its faults in {VARIABLE}: {error!r}") from error
