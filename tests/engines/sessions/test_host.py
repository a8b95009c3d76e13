"""Sessions on devices that need no card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import network_plan
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.errors import CaptureRefused
from trt_engines.devices.memory import Place
from trt_engines.devices.operations import NetworkOperation
from trt_engines.devices.simulated import hazards
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import OutOfMemory
from trt_engines.model import find_models
from trt_engines.sessions.host import HostSession
from trt_engines.sessions.onnx_graph import open_graph, session_network
from trt_engines.sessions.replay import Replay
from trt_engines.sessions.session import ShapeRange, covering


def some(rows: int) -> Any:
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)


def test_a_call_computes_the_rows_that_were_set(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    one.give(some(3))
    one.context.set_rows(3)

    one.context.enqueue(one.stream)

    np.testing.assert_array_equal(one.take(3), 2 * some(3))


def test_a_shape_outside_of_the_profile_names_where_the_context_was_made(
    device: HostComputingDevice, bench: Any
) -> None:
    one = bench(device)

    with pytest.raises(hazards.OutsideProfile, match="giving x of a/doubler 9 rows") as raised:
        one.context.set_rows(9)

    assert raised.value.first.file.endswith("conftest.py")
    assert raised.value.second.file == __file__


def test_a_bucket_that_no_profile_takes_has_no_context(
    device: HostComputingDevice, make_plan: Any, make_interface: Any
) -> None:
    session = HostSession(device, make_plan())

    with pytest.raises(hazards.OutsideProfile, match=r"making a context of a/doubler .* loading a/doubler"):
        session.context(make_interface(width=5), device.create_stream("engine"))


def test_a_tensor_without_a_place_or_with_too_small_a_one_is_named(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    one.context.bind({"y": device.allocate(8)})
    one.context.set_rows(1)

    with pytest.raises(hazards.BindingUnset, match="with 8 bytes for y"):
        one.context.enqueue(one.stream)

    context = one.session.context(one.context.interface, one.stream)
    context.set_rows(1)
    with pytest.raises(hazards.BindingUnset, match="without activation memory"):
        context.enqueue(one.stream)
    context.use_activation(one.activation)
    with pytest.raises(hazards.BindingUnset, match="with nothing for x"):
        context.enqueue(one.stream)


def test_a_context_is_for_one_stream(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    one.context.set_rows(1)

    with pytest.raises(hazards.ContextOnTwoStreams, match="in stream 'other'") as raised:
        one.context.enqueue(device.create_stream("other"))

    assert raised.value.second.file == __file__


def test_a_call_without_rows_is_refused(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)

    with pytest.raises(hazards.OutsideProfile, match="before its rows were set"):
        one.context.enqueue(one.stream)


def test_an_input_that_nothing_has_written_is_found(card: SimulatedDevice, bench: Any) -> None:
    one = bench(card)
    one.give(some(1))
    one.context.set_rows(2)

    with pytest.raises(hazards.NeverWritten):
        one.context.enqueue(one.stream)


def test_contexts_that_share_activation_memory_run_in_turn_or_race(card: SimulatedDevice, bench: Any) -> None:
    first, second = bench(card), bench(card, activation_bytes=2048)
    block = card.allocate(2048)
    for one in (first, second):
        one.context.use_activation(block)
        one.give(some(1))
        one.context.set_rows(1)
    first.context.enqueue(first.stream)
    with pytest.raises(hazards.Race, match="running 1 rows of a/doubler in stream 'engine'"):
        second.context.enqueue(second.stream)

    done = card.create_event("first is done")
    card.record(done, first.stream)
    card.wait(second.stream, done)
    second.context.enqueue(second.stream)

    np.testing.assert_array_equal(second.take(1), 2 * some(1))


def test_weights_take_memory_of_the_card_until_the_session_is_closed(card: SimulatedDevice, make_plan: Any) -> None:
    session = HostSession(card, make_plan(weight_bytes=1 << 19))
    with pytest.raises(OutOfMemory):
        HostSession(card, make_plan(weight_bytes=(1 << 19) + 1))

    session.close()

    assert card.memory_info().free == card.memory_info().total


def test_the_cost_model_is_told_the_shapes_of_a_call(bench: Any) -> None:
    told: list[Any] = []
    card = SimulatedDevice(CpuDevice().properties, seconds=lambda operation: told.append(operation) or 0.0)
    one = bench(card)
    one.give(some(3))
    one.context.set_rows(3)
    one.context.enqueue(one.stream)

    assert told[-1] == NetworkOperation(engine="a/doubler", shapes=(("x", (3, 4)), ("y", (3, 4))), rows=3)


def test_replayed_calls_give_what_plain_ones_give(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    replay = Replay(device, one.context, one.stream, 5)

    for number in range(4):
        one.give(some(5) + number)
        replay.run()
        np.testing.assert_array_equal(one.take(5), 2 * (some(5) + number))

    assert replay.captured


def test_a_call_that_cannot_be_captured_is_plain_every_time(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    one.context.capturable = False
    replay = Replay(device, one.context, one.stream, 5)

    for number in range(3):
        one.give(some(5) + number)
        replay.run()
        np.testing.assert_array_equal(one.take(5), 2 * (some(5) + number))

    assert not replay.captured


def test_binding_anew_drops_the_graphs(device: HostComputingDevice, bench: Any) -> None:
    one = bench(device)
    replay = Replay(device, one.context, one.stream, 1)
    one.give(some(1))
    replay.run()
    replay.run()

    device.synchronize(one.stream)
    device.free(one.y)
    one.y = device.allocate(8 * 4 * 4)
    replay.bind({"y": one.y})
    replay.run()

    np.testing.assert_array_equal(one.take(1), 2 * some(1))


def test_graphs_in_flight_are_waited_for_before_they_are_dropped(card: SimulatedDevice, bench: Any) -> None:
    one = bench(card)
    replay = Replay(card, one.context, one.stream, 1)
    one.give(some(1))
    replay.run()
    replay.run()

    replay.forget()

    assert not replay.captured


def test_a_change_of_memory_is_followed_by_a_plain_call_before_anything_is_captured(
    card: SimulatedDevice, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = bench(card), []
    for owner, name in ((one.context, "set_rows"), (one.context, "enqueue"), (card, "capture"), (card, "launch_graph")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, real=real, name=name: (asked.append(name), real(*args))[1])
    replay = Replay(card, one.context, one.stream, 5)
    one.give(some(5))

    replay.run()
    replay.run()
    replay.use_activation(one.activation)
    replay.run()

    plain_then_captured = ["enqueue", "capture", "enqueue"]
    assert asked == [
        *("set_rows", *plain_then_captured),
        "launch_graph",
        *plain_then_captured,
    ]


def test_a_call_that_fails_to_be_captured_is_not_tried_again_and_was_run(
    device: HostComputingDevice, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        tried.append(True)
        raise CaptureRefused("a graph cannot do that")

    one, tried = bench(device), []
    monkeypatch.setattr(device, "capture", refuse)
    replay = Replay(device, one.context, one.stream, 5)

    for number in range(3):
        one.give(some(5) + number)
        replay.run()
        np.testing.assert_array_equal(one.take(5), 2 * (some(5) + number))

    assert len(tried) == 1


def test_a_context_that_changed_since_its_graph_was_captured_is_found(card: SimulatedDevice, bench: Any) -> None:
    one = bench(card)
    one.give(some(5))
    one.context.set_rows(5)
    one.context.enqueue(one.stream)
    graph = card.capture(one.stream, lambda: one.context.enqueue(one.stream), "5 rows")
    one.context.set_rows(2)

    with pytest.raises(hazards.GraphContextChanged, match="launching graph '5 rows'"):
        card.launch_graph(graph, one.stream)


def test_a_context_that_changes_while_its_graph_is_under_way_is_found(card: SimulatedDevice, bench: Any) -> None:
    one = bench(card)
    one.give(some(5))
    one.context.set_rows(5)
    one.context.enqueue(one.stream)
    card.launch_graph(card.capture(one.stream, lambda: one.context.enqueue(one.stream), "5 rows"), one.stream)
    one.context.set_rows(2)

    with pytest.raises(hazards.GraphContextChanged, match="giving a/doubler 2 rows"):
        card.synchronize(one.stream)


def test_memory_that_moved_under_a_captured_call_is_found(card: SimulatedDevice, bench: Any) -> None:
    one = bench(card)
    replay = Replay(card, one.context, one.stream, 1)
    one.give(some(1))
    replay.run()
    card.synchronize(one.stream)
    card.free(one.y)

    with pytest.raises(hazards.GraphAddressChanged):
        replay.run()


def test_a_profile_that_takes_fewer_rows_too_comes_before_one_for_full_rows(make_interface: Any) -> None:
    only_full = {"x": ShapeRange(min=(8, 4), opt=(8, 4), max=(8, 4))}
    any_rows = {"x": ShapeRange(min=(1, 4), opt=(8, 4), max=(8, 4))}

    assert covering((only_full, any_rows), make_interface()) == 1
    assert covering((only_full,), make_interface()) == 0
    assert covering((only_full,), make_interface(rows=4)) is None


def test_a_real_graph_gives_what_onnxruntime_gives(device: HostComputingDevice) -> None:
    model = find_models()["shapes-tiny"]
    bucket = Bucket(width=64, height=64, rows=2)
    spec = EngineSpec(model=model, network="vae_decoder", bucket=bucket)
    interface = spec.interface
    (latent,), (pixels,) = interface.inputs, interface.outputs
    values = np.random.default_rng(0).normal(size=latent.shape).astype(np.float32)
    graph = open_graph(model.networks["vae_decoder"].graph, 1)
    (expected,) = graph.run(None, {"latent": values})
    plan = network_plan(spec, session_network(graph))
    if isinstance(device, SimulatedDevice):
        device = SimulatedDevice(type(device.properties)(name="big", sm=89, memory_bytes=1 << 30, multiprocessors=1))
    stream = device.create_stream("decode")
    source, target = (device.allocate(int(np.prod(one.shape)) * 4, Place.HOST) for one in (latent, pixels))
    places = {one.name: device.allocate(int(np.prod(one.shape)) * 4) for one in (latent, pixels)}
    context = HostSession(device, plan).context(interface, stream)
    context.use_activation(device.allocate(context.activation_bytes))
    context.bind(places)
    context.set_rows(2)

    device.view(source, latent.dtype, latent.shape, write=True)[:] = values
    device.copy(places["latent"], source, stream)
    context.enqueue(stream)
    device.copy(target, places["pixels"], stream)
    device.synchronize(stream)

    np.testing.assert_array_equal(device.view(target, pixels.dtype, pixels.shape), expected)
