"""Calls with arrays: types converted, several under way, nothing lost when memory is short or the engine refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, HostComputingDevice
from trt_engines.devices.operations import NetworkOperation, Operation
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.errors import EngineFault
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.host_calls import HostCalls
from trt_engines.sessions.session import ShapeRange

CARD = DeviceProperties(name="a card", sm=89, memory_bytes=1 << 20, multiprocessors=1)
ROWS = 4


def slow(operation: Operation) -> float:
    return 1.0 if isinstance(operation, NetworkOperation) else 0.0


@pytest.fixture(params=["processor", "simulated card"])
def device(request: pytest.FixtureRequest) -> HostComputingDevice:
    return CpuDevice() if request.param == "processor" else SimulatedDevice(CARD, seconds=slow)


def halved(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {"y": inputs["x"] / inputs["x"].dtype.type(2)}


def calls_of(
    device: HostComputingDevice, dtype: Any = np.float32, *, row_axis: int = 0, network: Any = halved, slots: int = 8
) -> HostCalls:
    shape = (ROWS, 3) if row_axis == 0 else (3, ROWS)
    x, y = (TensorSpec(name=name, shape=shape, dtype=np.dtype(dtype), row_axis=row_axis) for name in "xy")
    profile = {"x": ShapeRange(min=x.at(1), opt=x.shape, max=x.shape)}
    session = HostSession(device, HostPlan(label="a/network", network=network, profiles=(profile,)))
    engine = BoundEngine(device, session, Interface(inputs=(x,), outputs=(y,)), device.create_stream("calls"))
    return HostCalls(device, engine, slots)


def values(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 0), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)])
def test_rows_are_computed_in_the_types_of_the_engine(
    device: HostComputingDevice, dtype: Any, tolerance: float
) -> None:
    calls = calls_of(device, dtype)

    for rows in (3, 1, 4, 3):
        (given,) = calls.run(rows, {"x": values(rows, rows)}).values()
        np.testing.assert_allclose(given, values(rows, rows) / 2, rtol=tolerance, atol=tolerance)
        assert given.dtype == np.float32


def test_what_half_precision_cannot_hold_is_infinite_and_not_a_wrong_number(device: HostComputingDevice) -> None:
    (given,) = calls_of(device, np.float16).run(1, {"x": np.full((1, 3), 1e6, np.float32)}).values()

    assert np.isinf(given).all()


def test_of_rows_behind_another_axis_the_entry_that_is_asked_for_comes_back(device: HostComputingDevice) -> None:
    calls = calls_of(device, row_axis=1)

    for entry, expected in enumerate(values(2).T / 2):
        (given,) = calls.begin(2, {"x": values(2).T}, entry).results().values()

        np.testing.assert_array_equal(given, expected)


def test_calls_under_way_are_not_waited_for_and_come_back_as_they_were_asked(device: HostComputingDevice) -> None:
    calls = calls_of(device)

    begun = [calls.begin(1, {"x": values(1, seed)}) for seed in range(3)]

    if isinstance(device, SimulatedDevice):
        assert device.clock == 0
        assert not any(one.done for one in begun)
    for seed in (1, 0, 2):
        np.testing.assert_array_equal(begun[seed].results()["y"], values(1, seed) / 2)
        assert begun[seed].done


def test_more_calls_than_slots_wait_for_the_first_whose_results_are_kept(device: HostComputingDevice) -> None:
    calls = calls_of(device, slots=2)

    begun = [calls.begin(1, {"x": values(1, seed)}) for seed in range(5)]

    for seed, one in enumerate(begun):
        np.testing.assert_array_equal(one.results()["y"], values(1, seed) / 2)


def test_closing_keeps_the_results_of_what_is_under_way(device: HostComputingDevice) -> None:
    calls = calls_of(device)
    begun = calls.begin(2, {"x": values(2)})

    calls.close()

    np.testing.assert_array_equal(begun.results()["y"], values(2) / 2)


def test_a_refused_call_gives_its_slot_back(device: HostComputingDevice) -> None:
    calls = calls_of(device, slots=1)
    run, refusing = calls.engine.run, [True]

    def refused_once(rows: int) -> None:
        if refusing.pop():
            raise EngineFault("refused")
        run(rows)

    calls.engine.run = refused_once  # type: ignore[method-assign]
    with pytest.raises(EngineFault, match="refused"):
        calls.begin(1, {"x": values(1)})
    refusing.append(False)

    np.testing.assert_array_equal(calls.run(1, {"x": values(1)})["y"], values(1) / 2)


@pytest.mark.parametrize("rows", [0, ROWS + 1])
def test_rows_that_the_engine_does_not_have_are_refused(device: HostComputingDevice, rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows asked of {ROWS}"):
        calls_of(device).begin(rows, {"x": values(rows)})
