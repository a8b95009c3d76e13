"""A program without hazards gives the same result in whatever order the card works."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.simulated.hazards import Race

STREAMS, BLOCKS, OPERATIONS = 3, 4, 16


def run_program(kit: Any, seed: int, *, forget: float = 0.0) -> list[list[float]]:
    """Random additions and copies over a few blocks and streams, with an event wherever two streams meet.

    Args:
        forget: share of the waits that are left out.
    Returns: what the blocks hold at the end.
    """
    random, device = Random(seed), kit.device
    streams = [device.create_stream(str(number)) for number in range(STREAMS)]
    blocks = [kit.device_memory() for _ in range(BLOCKS)]
    users: list[list[tuple[Any, Any]]] = [[] for _ in blocks]  # stream and event of each use
    for number, block in enumerate(blocks):
        device.copy(block, kit.host(*(float(number + 1 + i) for i in range(kit.size))), streams[0])
    device.synchronize(streams[0])
    graphs = [
        device.capture(streams[0], lambda i=i: kit.add(blocks[i], blocks[i - 1], streams[0]), str(i)) for i in range(2)
    ]
    for _ in range(OPERATIONS):
        stream = random.choice(streams)
        kind = random.choice(["add", "copy", "graph", "synchronize"])
        if kind == "synchronize":
            device.synchronize(stream)
            continue
        target, source = random.sample(range(BLOCKS), 2)
        if kind == "graph":
            target = random.randrange(2)
            source = (target - 1) % BLOCKS
        for block in (target, source):
            for other, event in users[block]:
                if other is not stream and random.random() >= forget:
                    device.wait(stream, event)
        if kind == "graph":
            device.launch_graph(graphs[target], stream)
        elif kind == "add":
            kit.add(blocks[target], blocks[source], stream)
        else:
            device.copy(blocks[target], blocks[source], stream)
        for block in (target, source):
            event = device.create_event("used")
            device.record(event, stream)
            users[block] = [pair for pair in users[block] if pair[0] is not stream] + [(stream, event)]
    results = [kit.host() for _ in blocks]
    for stream in streams:
        device.synchronize(stream)
    for result, block in zip(results, blocks, strict=True):
        device.copy(result, block, streams[0])
    device.synchronize(streams[0])
    return [kit.read(result) for result in results]


def test_a_thousand_random_programs_give_what_immediate_execution_gives(make_card: Any, floats: Any) -> None:
    for seed in range(250):
        expected = run_program(floats(CpuDevice()), seed)
        for order in range(4):
            assert run_program(floats(make_card(seed=order)), seed) == expected, f"program {seed}, order {order}"


def test_a_program_that_forgets_waits_is_found_or_has_the_same_result_in_any_order(make_card: Any, floats: Any) -> None:
    found = 0
    for seed in range(60):
        expected = run_program(floats(CpuDevice()), seed, forget=0.3)
        for order in range(3):
            try:
                result = run_program(floats(make_card(seed=order)), seed, forget=0.3)
            except Race:
                found += 1
            else:
                assert result == expected, f"program {seed}, order {order}"

    assert 60 <= found < 180


def test_the_card_really_works_in_different_orders(make_card: Any) -> None:
    def order(seed: int) -> list[str]:
        card: HostComputingDevice = make_card(seed=seed)
        done: list[str] = []
        for name in "abcd":
            card.enqueue(noting(done, name), card.create_stream(name))
        last = card.create_stream("last")
        card.enqueue(noting(done, "last"), last)
        card.synchronize(last)
        card.close()
        return done

    assert len({tuple(order(seed)) for seed in range(10)}) > 5


def noting(done: list[str], name: str) -> Any:
    from trt_engines.devices.operations import FillOperation, Work

    return Work(operation=FillOperation(size=0), reads=(), writes=(), run=lambda _: done.append(name))


@pytest.mark.parametrize("value", [0, 255])
def test_fills_are_done_in_their_streams_order(make_card: Any, floats: Any, value: int) -> None:
    kit = floats(make_card())
    stream, memory, target = kit.device.create_stream("work"), kit.device_memory(), kit.host()
    kit.device.fill(memory, 17, stream)
    kit.device.fill(memory, value, stream)
    kit.device.copy(target, memory, stream)
    kit.device.synchronize(stream)

    assert (kit.device.view(target, np.dtype(np.uint8), (16,)) == value).all()
