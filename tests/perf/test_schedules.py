"""Random schedules: seeded, mixed, without a hazard on a strict card; a program that forgets an event is caught."""

from __future__ import annotations

import pytest

from trt_engines.devices.device import Event, HostComputingDevice, Stream
from trt_engines.devices.memory import Buffer, Place
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_perf.schedules import CARD, schedule, schedule_figures


class Forgetful(SimulatedDevice):
    """A card on which no stream ever waits for another."""

    def wait(self, stream: Stream, event: Event) -> None:
        pass


class Zeroing(SimulatedDevice):
    """A card that zeroes what is copied to it: no hazard, since it does so in the copy's stream, and still wrong."""

    def copy(self, destination: Buffer, source: Buffer, stream: Stream) -> None:
        super().copy(destination, source, stream)
        if destination.place is Place.DEVICE:
            self.fill(destination, 0, stream)


def forgetful(seed: int) -> HostComputingDevice:
    return Forgetful(CARD, seed=seed)


def zeroing(seed: int) -> HostComputingDevice:
    return Zeroing(CARD, seed=seed)


def test_schedules_meet_no_hazard_and_give_the_pictures_of_the_processor() -> None:
    figures = schedule_figures(25)

    assert figures["schedules_hazards"] == 0
    assert figures["schedules_pictures"] > 50


def test_a_program_whose_streams_do_not_wait_for_each_other_is_full_of_hazards() -> None:
    assert schedule_figures(5, forgetful)["schedules_hazards"] == 5


def test_a_picture_that_is_not_the_processor_s_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"schedule 0: .* came out differently"):
        schedule_figures(1, zeroing)


def test_a_schedule_is_its_seed_s() -> None:
    assert schedule(3) == schedule(3)
    assert schedule(3) != schedule(4)


def test_schedules_mix_what_jobs_may_ask_for() -> None:
    plans = [schedule(seed) for seed in range(30)]
    jobs = [run.job for plan in plans for turn in plan.turns for run, _ in turn.take]

    for trait in ("model", "width", "height", "sampler", "steps", "guidance", "prompt", "seeds"):
        assert len({getattr(job, trait) for job in jobs}) > 1
    assert {bool(source) for plan in plans for turn in plan.turns for _, source in turn.take} == {True, False}
    assert any(plan.withdrawn for plan in plans)
    assert len({plan.memory for plan in plans}) == 2
