"""Which device gets a job: the one that is done with it first, counting what has to be loaded before it can begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

SWITCH_SECONDS = 10.0
"""What loading a model's engines takes, until some device of the rig has loaded them and told: a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """What placement has to know of a device that can run a job."""

    index: int
    failures: int  # faults and lost processes that this job has already had there
    backlog: float  # megapixel-steps it still has to do
    pace: float | None  # megapixel-steps a second; None: nothing measured
    resident: bool  # whether it holds the job's model
    load_seconds: float | None = None  # that loading the model took there the last time; None: not loaded yet
    away: float = 0.0  # seconds until it has a process again; 0: it has one


def place(devices: Sequence[DeviceView], work: float) -> int:
    """The index of the device that gets a job.

    A device that already failed with this job is taken when no other is left; otherwise the one that finishes first,
    and among equals the lowest. A device whose pace is unknown counts as fast as the others are on average, and one
    that has not loaded the model yet takes as long for that as the others did.

    Args:
        devices: those that can run it, at least one.
        work: the job's megapixel-steps.
    """
    measured = [device.pace for device in devices if device.pace]
    usual = mean(measured) if measured else 1.0
    loads = [device.load_seconds for device in devices if device.load_seconds is not None]
    usual_load = mean(loads) if loads else SWITCH_SECONDS

    def finish(device: DeviceView) -> float:
        load = usual_load if device.load_seconds is None else device.load_seconds
        return device.away + (0.0 if device.resident else load) + (device.backlog + work) / (device.pace or usual)

    return min(devices, key=lambda device: (device.failures, finish(device), device.index)).index
