"""The backends that the worker is tried with: one whose pictures tell jobs apart, and one that fails by script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineBackend, EngineSpec
from trt_engines.backends.faults import VARIABLE, Fault, FaultScript
from trt_engines.backends.faulty import FaultyBackend
from trt_engines.backends.rowwise import rowwise_backend
from trt_engines.bucket import Bucket
from trt_engines.devices.errors import DeviceFault
from trt_engines.errors import EngineError, EngineFault, OutOfMemory, StaleEngine
from trt_engines.model import find_models
from trt_engines.sessions.host_calls import Arrays, HostCalls

MODEL = find_models()["shapes-tiny"]
NETWORKS = sorted(MODEL.networks)

Script = Callable[..., FaultScript]


def a_spec(network: str = "denoiser", *, rows: int = 3, tokens: int = 77) -> EngineSpec:
    return EngineSpec(model=MODEL, network=network, bucket=Bucket(width=64, height=64, rows=rows, tokens=tokens))


def some_inputs(spec: EngineSpec) -> Arrays:
    random = np.random.default_rng(1)
    return {
        one.name: random.integers(0, 49_407, one.shape) if one.dtype == np.int64 else random.uniform(-1, 1, one.shape)
        for one in spec.interface.inputs
    }


def computed(spec: EngineSpec, inputs: Arrays) -> NDArray[Any]:
    rows = len(next(iter(inputs.values())))
    (output,) = loaded(rowwise_backend(), spec).run(rows, inputs).values()
    return output


def faulty() -> HostCalls:
    return loaded(FaultyBackend(rowwise_backend()), a_spec())


def loaded(backend: EngineBackend, spec: EngineSpec) -> HostCalls:
    return HostCalls(backend.device, backend.load(spec, backend.device.create_stream("calls")))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A maker of scripts that this process then runs by."""

    def given(**rates: float) -> FaultScript:
        made = FaultScript(seed=1, rates={Fault[name]: rate for name, rate in rates.items()}, folder=str(tmp_path))
        monkeypatch.setenv(VARIABLE, made.environment[VARIABLE])
        return made

    return given


@pytest.mark.parametrize("network", NETWORKS)
def test_a_row_comes_out_the_same_in_any_company(network: str) -> None:
    spec = a_spec(network)
    inputs = some_inputs(spec)

    together = computed(spec, inputs)

    for row in range(3):
        alone = computed(spec, {name: values[row : row + 1] for name, values in inputs.items()})
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("network", NETWORKS)
def test_every_input_matters(network: str) -> None:
    spec = a_spec(network)
    inputs = some_inputs(spec)
    before = computed(spec, inputs)
    for values in inputs.values():
        values.reshape(3, -1)[1, 0] += 1
        after = computed(spec, inputs)

        assert not np.array_equal(after, before)
        before = after


def test_a_repeated_context_says_the_same() -> None:
    inputs = some_inputs(a_spec())
    twice = {name: np.tile(values, (1, 2, 1)) if name == "context" else values for name, values in inputs.items()}

    np.testing.assert_allclose(computed(a_spec(tokens=154), twice), computed(a_spec(), inputs), atol=1e-6)


@pytest.mark.parametrize(("fault", "error"), [("STALE", StaleEngine), ("FULL_AT_LOAD", OutOfMemory)])
def test_a_load_is_struck_and_counted(script: Script, fault: str, error: type[EngineError]) -> None:
    made = script(**{fault: 1.0})

    with pytest.raises(error, match="says the script"):
        faulty()

    assert made.strikes() == {Fault[fault]: 1}


def test_a_call_is_spoilt_in_one_row_only(script: Script) -> None:
    script(NOT_FINITE=1.0)
    calls = faulty()

    given = calls.run(3, some_inputs(a_spec()))["noise_pred"]

    assert [bool(np.isfinite(row).all()) for row in given] == [False, True, True]


def test_a_sticky_error_is_none_that_an_engine_s_failover_catches(script: Script) -> None:
    script(STICKY=1.0)
    calls = faulty()

    with pytest.raises(DeviceFault):
        calls.engine.run(1)
    assert not issubclass(DeviceFault, EngineError)


def test_a_full_card_is_sometimes_still_full_at_the_retry(script: Script) -> None:
    made = script(FULL=0.2)
    calls = faulty()
    messages = []
    for _ in range(100):
        try:
            calls.engine.run(1)
        except OutOfMemory as error:
            messages.append(str(error))

    still = sum("still full" in message for message in messages)
    assert 0 < still < made.strikes()[Fault.FULL] == len(messages) - still


def test_without_a_script_the_faulty_backend_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)

    with pytest.raises(EngineFault, match=VARIABLE):
        faulty()
