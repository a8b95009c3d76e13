"""The backends that the worker is tried with: one whose pictures tell jobs apart, and one that fails by script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trt_engines.backend import EngineSpec
from trt_engines.backends.faults import VARIABLE, Fault, FaultScript
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.rowwise import RowwiseBackend, RowwiseEngine
from trt_engines.bucket import Bucket
from trt_engines.devices.errors import DeviceFault
from trt_engines.errors import EngineError, EngineFault, OutOfMemory, StaleEngine
from trt_engines.interface import interface_of
from trt_engines.model import Component, find_models

MODEL = find_models()["shapes-tiny"]

Script = Callable[..., FaultScript]


def a_spec(component: Component = Component.DENOISER, *, rows: int = 3, tokens: int = 77) -> EngineSpec:
    return EngineSpec(model=MODEL, component=component, bucket=Bucket(width=64, height=64, rows=rows, tokens=tokens))


def filled(spec: EngineSpec) -> RowwiseEngine:
    engine = RowwiseBackend().load(spec)
    random = np.random.default_rng(1)
    for tensor in engine.inputs.values():
        ids = tensor.dtype == np.int64
        tensor[...] = random.integers(0, 49_407, tensor.shape) if ids else random.uniform(-1, 1, tensor.shape)
    return engine


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A maker of scripts that this process then runs by."""

    def given(**rates: float) -> FaultScript:
        made = FaultScript(seed=1, rates={Fault[name]: rate for name, rate in rates.items()}, folder=str(tmp_path))
        monkeypatch.setenv(VARIABLE, made.environment[VARIABLE])
        return made

    return given


@pytest.mark.parametrize("component", list(Component))
def test_a_row_comes_out_the_same_in_any_company(component: Component) -> None:
    together, alone = filled(a_spec(component)), filled(a_spec(component, rows=1))
    together.run(3)
    (output,) = interface_of(together.spec).outputs
    for row in range(3):
        for name, tensor in alone.inputs.items():
            tensor[0] = together.inputs[name][row]
        alone.run(1)

        np.testing.assert_array_equal(
            alone.outputs[output.name].take(0, output.row_axis),
            together.outputs[output.name].take(row, output.row_axis),
        )


@pytest.mark.parametrize("component", list(Component))
def test_every_input_matters(component: Component) -> None:
    engine = filled(a_spec(component))
    engine.run(3)
    (before,) = [output.copy() for output in engine.outputs.values()]
    for tensor in engine.inputs.values():
        tensor.reshape(3, -1)[1, 0] += 1
        engine.run(3)
        (after,) = engine.outputs.values()

        assert not np.array_equal(after, before)
        before = after.copy()


def test_a_repeated_context_says_the_same() -> None:
    once, twice = filled(a_spec()), filled(a_spec(tokens=154))
    for name, tensor in once.inputs.items():
        twice.inputs[name][...] = np.tile(tensor, (1, 2, 1)) if name == "context" else tensor
    once.run(3)
    twice.run(3)

    np.testing.assert_allclose(twice.outputs["noise_pred"], once.outputs["noise_pred"], atol=1e-6)


@pytest.mark.parametrize(("fault", "error"), [("STALE", StaleEngine), ("FULL_AT_LOAD", OutOfMemory)])
def test_a_load_is_struck_and_counted(script: Script, fault: str, error: type[EngineError]) -> None:
    made = script(**{fault: 1.0})

    with pytest.raises(error, match="says the script"):
        FaultyBackend(RowwiseBackend()).load(a_spec())

    assert made.strikes() == {Fault[fault]: 1}


def test_a_call_is_spoilt_in_one_row_only(script: Script) -> None:
    script(NOT_FINITE=1.0)
    engine = FaultyBackend(RowwiseBackend()).load(a_spec())

    engine.run(3)

    assert [bool(np.isfinite(row).all()) for row in engine.outputs["noise_pred"]] == [False, True, True]


def test_a_sticky_error_is_none_that_an_engine_s_failover_catches(script: Script) -> None:
    script(STICKY=1.0)
    engine = FaultyBackend(RowwiseBackend()).load(a_spec())

    with pytest.raises(DeviceFault):
        engine.run(1)
    assert not issubclass(DeviceFault, EngineError)


def test_a_full_card_is_sometimes_still_full_at_the_retry(script: Script) -> None:
    made = script(FULL=0.2)
    engine = FaultyBackend(RowwiseBackend()).load(a_spec())
    messages = []
    for _ in range(100):
        try:
            engine.run(1)
        except OutOfMemory as error:
            messages.append(str(error))

    still = sum("still full" in message for message in messages)
    assert 0 < still < made.strikes()[Fault.FULL] == len(messages) - still


def test_without_a_script_the_faulty_backend_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)

    with pytest.raises(EngineFault, match=VARIABLE):
        FaultyBackend(RowwiseBackend()).load(a_spec())
