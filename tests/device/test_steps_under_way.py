"""Which step the host waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from trt_engines.devices.device import Stream
from trt_worker.batch.admission import BatchKey
from trt_worker.device.steps_under_way import StepsUnderWay

LONG, SHORT = (BatchKey(model=name, backend="any", width=64, height=64) for name in ("long", "short"))


@dataclass
class Card:
    """Two streams, on each of which steps run one after the other; the host's clock moves when it waits."""

    clock: float = 0.0
    free: dict[Stream, float] = field(default_factory=dict)

    def step(self, stream: Stream, seconds: float) -> Step:
        end = self.free[stream] = max(self.clock, self.free.get(stream, 0.0)) + seconds
        return Step(self, end)


@dataclass
class Step:
    card: Card
    end: float
    rows: tuple[Any, ...] = ()

    @property
    def done(self) -> bool:
        return self.card.clock >= self.end

    def wait(self) -> None:
        self.card.clock = max(self.card.clock, self.end)

    def engine_seconds(self) -> float:
        return 0.0


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def under_way(card: Card) -> StepsUnderWay:
    return StepsUnderWay(lambda: card.clock)


def put(under_way: StepsUnderWay, card: Card, stream: Stream, key: BatchKey, seconds: float) -> None:
    under_way.add(stream, key, card.step(stream, seconds), began=card.clock, loads=0)


def test_the_host_waits_for_the_stream_that_is_likely_to_be_free_first(under_way: StepsUnderWay, card: Card) -> None:
    one, other = Stream(1, "one"), Stream(2, "other")
    for stream, key, seconds in ((one, LONG, 10.0), (other, SHORT, 1.0)):  # what each takes has to be seen once
        put(under_way, card, stream, key, seconds)
        under_way.wait()
        under_way.done()
    began = card.clock
    put(under_way, card, one, LONG, 10.0)
    for _ in range(3):
        put(under_way, card, other, SHORT, 1.0)

    waited = []
    while under_way:
        under_way.wait()
        waited += [(measured.key, card.clock - began) for measured in under_way.done()]

    assert waited == [(SHORT, 1.0), (SHORT, 2.0), (SHORT, 3.0), (LONG, 10.0)]


def test_a_size_that_nobody_has_measured_is_waited_for_from_when_it_was_begun(
    under_way: StepsUnderWay, card: Card
) -> None:
    put(under_way, card, Stream(1, "one"), LONG, 10.0)

    under_way.wait()

    assert [(measured.key, measured.seconds) for measured in under_way.done()] == [(LONG, 10.0)]
