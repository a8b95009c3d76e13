"""A session's whole life, every call of it checked against what the libraries declare."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_engines.sessions
from trt_engines.backend import EngineSpec
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.backends.stored_source import StoredSource
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import DeviceProperties, Stream
from trt_engines.devices.memory import Allocation, Buffer, Place
from trt_engines.errors import EngineFault, EngineRefused, OutOfMemory, StaleEngine
from trt_engines.interface import Interface, TensorSpec
from trt_engines.model import find_models
from trt_engines.sessions.host_calls import HostCalls
from trt_engines.sessions.libraries import TensorRt, TensorRtRtx
from trt_engines.sessions.session import Declared
from trt_engines.sessions.tensorrt import TensorRtSession
from trt_engines.sessions.tensorrt import _logger as session_logger
from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import Certificate
from trt_engines.store.store import Store

SOURCES = Path(trt_engines.sessions.__file__).parent
LIBRARIES = {"tensorrt": TensorRt, "tensorrt_rtx": TensorRtRtx}
NAMES = ("sample", "noise_pred")
FLOAT = np.dtype(np.float32)
STREAM = Stream(7, "work")
StandIn = Callable[[str, Any], None]


def interface(rows: int = 4) -> Interface:
    tensors = [TensorSpec(name=name, shape=(rows, 4, 8, 8), dtype=FLOAT) for name in NAMES]
    return Interface(inputs=(tensors[0],), outputs=(tensors[1],))


class Kit:
    """A library's double, and sessions over it."""

    def __init__(self, name: str, loaded: tuple[Any, str], stand_in: StandIn, make_library: Any) -> None:
        module, self.version = loaded
        mode = module.TensorIOMode
        self.answers: dict[str, Any] = {
            "ICudaEngine.num_io_tensors": 2,
            "ICudaEngine.num_optimization_profiles": 1,
            "ICudaEngine.get_tensor_name": lambda index: NAMES[index],
            "ICudaEngine.get_tensor_mode": lambda one: mode.INPUT if one == NAMES[0] else mode.OUTPUT,
            "ICudaEngine.get_tensor_dtype": module.DataType.HALF,
            "ICudaEngine.get_tensor_shape": (-1, 4, 8, 8),
            "ICudaEngine.get_tensor_profile_shape": [(1, 4, 8, 8), (4, 4, 8, 8), (8, 4, 8, 8)],
            "IExecutionContext.update_device_memory_size_for_shapes": 4096,
            "ICudaEngine.get_device_memory_size_for_profile_v2": 16384,
            "ICudaEngine.streamable_weights_size": 4096,
            "ICudaEngine.weight_streaming_budget_v2": 1024,
            "ICudaEngine.weight_streaming_scratch_memory_size": 64,
            "IRuntimeCache.serialize": b"kernels",
        }
        if name == "tensorrt_rtx":
            self.answers["Runtime.get_engine_validity"] = (module.EngineValidity.VALID, 0)
        self.module = module
        double = make_library(module, self.answers, self.version)
        self.used: set[str] = double.used  # names of all members that were asked for
        self.recorded = double.recorded
        stand_in(name, double)
        self.library: Any = LIBRARIES[name]()

    def session(self, **changes: Any) -> TensorRtSession:
        identity = Identity(
            architecture="stable_diffusion_1",
            component="denoiser",
            graph="0" * 64,
            weights="1" * 64,
            precision="float16",
            profiles=(),
            flags={},
            library=self.library.name,
            library_version=self.version,
            compute_capabilities=(89,),
        )
        settings = {"label": "a/denoiser", "identity": identity, "sm": 89} | changes
        return TensorRtSession(self.library, b"plan", **settings)


@pytest.fixture(params=LIBRARIES)
def kit(request: pytest.FixtureRequest, stand_in: StandIn, make_library: Any) -> Kit:
    return Kit(request.param, request.getfixturevalue(request.param), stand_in, make_library)


@pytest.fixture
def rtx(tensorrt_rtx: tuple[Any, str], stand_in: StandIn, make_library: Any) -> Kit:
    return Kit("tensorrt_rtx", tensorrt_rtx, stand_in, make_library)


class Kept:
    """Kernels as they would lie on disk."""

    def __init__(self, kernels: bytes = b"") -> None:
        self.kernels = kernels
        self.writes = 0

    def read(self) -> bytes:
        return self.kernels

    def write(self, kernels: bytes) -> None:
        self.kernels = kernels
        self.writes += 1


def live(kit: Kit) -> None:
    """Use every method of a session and of its context, and of what the library has of its own."""
    pristine = {"kernel": np.zeros(8, np.float16), "bias": np.zeros(4, np.float16)}
    session = kit.session(pristine=pristine, streamed=3072)
    context = session.context(interface(), STREAM)
    memory = Buffer(Allocation(Place.DEVICE, 0x7F00_0000_0000, 1 << 20), 0, 1 << 20)
    context.use_activation(memory)
    context.bind(dict.fromkeys(NAMES, memory))
    context.set_rows(2)
    context.enqueue(STREAM)
    assert context.capturable
    session.refit({"kernel": np.ones(8, np.float16)}, STREAM)
    session.refit({"bias": np.ones(4, np.float16)}, STREAM)
    context.close()
    session.close()
    if isinstance(kit.library, TensorRtRtx):
        kit.library = TensorRtRtx(Kept(b"saved"))
        kit.session().context(interface(), STREAM)
        kit.answers["Runtime.get_engine_validity"] = (kit.module.EngineValidity.INVALID, 0)
        with pytest.raises(StaleEngine, match="does not say why"):
            kit.session()


def test_a_session_calls_only_what_its_library_declares(kit: Kit) -> None:
    live(kit)

    assert {"deserialize_cuda_engine", "execute_async_v3", "set_device_memory", "refit_cuda_engine_async"} <= kit.used


def called_on_the_library(code: ast.AST) -> set[str]:
    """Every attribute that code takes of one of the library's objects, by the names that our sources give them."""
    objects = {"runtime", "engine", "context", "config", "refitter", "trt", "cache"}
    taken = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute):
            base = node.value
            name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
            if name.lstrip("_") in objects:
                taken.add(node.attr)
    return taken - {"__version__"}


def test_no_call_of_the_source_is_left_out_of_this_check(kit: Kit) -> None:
    live(kit)

    libraries = ast.parse((SOURCES / "libraries.py").read_text())
    own = type(kit.library).__name__
    (library,) = (node for node in libraries.body if isinstance(node, ast.ClassDef) and node.name == own)
    session = ast.parse((SOURCES / "tensorrt.py").read_text())
    assert called_on_the_library(session) | called_on_the_library(library) <= kit.used


def test_weights_are_left_in_host_memory_before_a_context_is_made_which_gets_room_to_copy_them(kit: Kit) -> None:
    assert kit.session(streamed=3072).context(interface(), STREAM).activation_bytes == 4096 + 64
    assert kit.session().context(interface(), STREAM).activation_bytes == 4096


def test_an_engine_that_was_not_built_for_streaming_is_a_fault_when_it_is_to_stream(kit: Kit) -> None:
    with pytest.raises(EngineFault, match="a/denoiser does not stream its weights"):
        kit.session(streamed=4096)


def test_a_session_tells_of_every_context_that_it_makes(kit: Kit) -> None:
    made: list[Any] = []

    context = kit.session(made=made.append).context(interface(), STREAM)

    assert made == [context]


def test_rtx_keeps_what_it_compiled_once_a_context_is_made_and_only_when_it_changes(rtx: Kit) -> None:
    kept = Kept()
    rtx.library = TensorRtRtx(kept)
    session = rtx.session()
    session.context(interface(), STREAM)
    session.context(interface(), STREAM)

    assert (kept.kernels, kept.writes) == (b"kernels", 1)


def test_rtx_keeps_what_the_first_call_of_a_shape_compiled_before_the_process_may_be_killed(rtx: Kit) -> None:
    kept = Kept()
    rtx.library = TensorRtRtx(kept)
    context = rtx.session().context(interface(), STREAM)
    compiled = [b"of 4 rows", b"of 4 rows and 2", b"never asked for"]
    seen = []

    for rows in (4, 4, 2, 4):
        rtx.answers["IRuntimeCache.serialize"] = compiled[len(set(seen))]
        context.set_rows(rows)
        context.enqueue(STREAM)
        seen.append(kept.kernels)

    assert seen == [b"of 4 rows", b"of 4 rows", b"of 4 rows and 2", b"of 4 rows and 2"]


def test_a_context_whose_needs_the_library_cannot_tell_gets_what_its_profile_needs(kit: Kit) -> None:
    kit.answers["IExecutionContext.update_device_memory_size_for_shapes"] = 0

    assert kit.session().context(interface(), STREAM).activation_bytes == 16384


def test_a_context_that_needs_no_memory_is_given_none(kit: Kit) -> None:
    context = kit.session().context(interface(), STREAM)

    context.use_activation(Buffer(Allocation(Place.DEVICE, 0, 0), 0, 0))

    assert "set_device_memory" not in kit.used


def test_whether_a_call_can_be_captured_is_asked_once_it_was_run(rtx: Kit) -> None:
    context = rtx.session().context(interface(), STREAM)
    asked_before = "is_stream_capturable" in rtx.used
    rtx.answers["IExecutionContext.is_stream_capturable"] = False

    assert not asked_before
    assert not context.capturable


def test_rtx_writes_kernels_that_it_accepted_not_again_and_stale_ones_anew(rtx: Kit) -> None:
    accepted, stale = Kept(b"kernels"), Kept(b"kernels")
    for kept, accepts in ((accepted, True), (stale, False)):
        rtx.answers["IRuntimeCache.deserialize"] = accepts
        rtx.library = TensorRtRtx(kept)
        rtx.session().context(interface(), STREAM)

    assert (accepted.writes, stale.writes) == (0, 1)


def test_a_session_tells_the_types_and_shapes_of_its_tensors(kit: Kit) -> None:
    declared = Declared(dtype=np.dtype(np.float16), shape=(-1, 4, 8, 8))

    assert kit.session().tensors == dict.fromkeys(NAMES, declared)


def test_a_type_that_the_worker_does_not_convert_to_is_refused_by_name(kit: Kit) -> None:
    kit.answers["ICudaEngine.get_tensor_dtype"] = kit.module.DataType.FP8

    with pytest.raises(EngineRefused, match="sample is a FP8"):
        kit.session()


def test_a_weight_that_could_not_be_put_back_is_not_refitted(kit: Kit) -> None:
    session = kit.session(pristine={"bias": np.zeros(4, np.float16)})

    with pytest.raises(EngineFault, match="kernel could not be put back after a refit"):
        session.refit({"kernel": np.ones(8, np.float16)}, STREAM)
    assert "Refitter" not in kit.used


def test_a_double_refuses_what_a_library_would_refuse(kit: Kit) -> None:
    runtime = kit.library.trt.Runtime(kit.session()._logger)
    engine = runtime.deserialize_cuda_engine(b"plan")

    with pytest.raises(AttributeError):
        engine.get_binding_index("sample")
    with pytest.raises(AssertionError, match="SupportsInt"):
        engine.get_tensor_name("sample")
    with pytest.raises(AssertionError, match="too many"):
        engine.get_tensor_name(1, 2)
    with pytest.raises(AttributeError):
        _ = kit.library.trt.TensorIOMode.BOTH


def test_a_plan_of_another_version_card_or_library_is_stale_and_is_not_read(kit: Kit) -> None:
    with pytest.raises(StaleEngine, match=r"built for SM89, and this card is SM86: rebuild"):
        kit.session(sm=86)
    assert "deserialize_cuda_engine" not in kit.used


def test_plans_of_another_release_are_stale_and_are_not_read(kit: Kit) -> None:
    for other in ("1.0.0.1", "99.0.0.1"):
        kit.version = other

        with pytest.raises(StaleEngine, match=rf"built with version {other}, and .* is installed: rebuild it"):
            kit.session()
    assert "deserialize_cuda_engine" not in kit.used


def test_another_build_of_the_same_rtx_release_is_left_to_the_library(rtx: Kit) -> None:
    rtx.version = rtx.version.rpartition(".")[0] + ".999"

    assert rtx.session().label == "a/denoiser"


def test_rtx_says_from_the_header_why_a_plan_cannot_run(rtx: Kit) -> None:
    diagnostics = rtx.module.EngineInvalidityDiagnostics
    both = int(diagnostics.UNSUPPORTED_CC) | int(diagnostics.OLD_CUDA_DRIVER)
    rtx.answers["Runtime.get_engine_validity"] = (rtx.module.EngineValidity.INVALID, both)

    with pytest.raises(StaleEngine, match=r"not built for this card.*; the driver is too old"):
        rtx.session()
    assert "deserialize_cuda_engine" not in rtx.used


def test_the_real_rtx_library_calls_what_is_no_plan_damaged() -> None:
    library = TensorRtRtx()
    trt = library.trt
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))

    assert library.invalid(runtime, b"no plan" * 100) == "it is damaged, or no engine of this library: rebuild it"


def test_a_plan_that_does_not_load_is_stale(kit: Kit) -> None:
    kit.answers["Runtime.deserialize_cuda_engine"] = None

    with pytest.raises(StaleEngine, match="cannot be loaded"):
        kit.session()


FULL = (
    ("Error Code 1: Cuda Runtime (out of memory)",),
    ("Error Code 2: OutOfMemory (Requested size was 20132809216 bytes.)",),
    ("Error Code 2: OutOfMemory (no further information)", "Error Code 4: Internal Error (Engine could not be made.)"),
)


@pytest.mark.parametrize("told", FULL, ids=("cuda", "library", "and then what failed for it"))
@pytest.mark.parametrize("call", ["deserialize_cuda_engine", "create_execution_context", "execute_async_v3"])
def test_a_full_card_is_out_of_memory_whatever_was_asked_for_and_however_it_is_told(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, call: str, told: tuple[str, ...]
) -> None:
    def refuse(*_: Any) -> None:
        for line in told:
            logger.log(kit.module.ILogger.Severity.ERROR, line)

    logger = session_logger(kit.library.trt)
    monkeypatch.setattr(trt_engines.sessions.tensorrt, "_logger", lambda trt: logger)
    of = {"deserialize_cuda_engine": "Runtime", "create_execution_context": "ICudaEngine"}
    kit.answers[f"{of.get(call, 'IExecutionContext')}.{call}"] = refuse

    with pytest.raises(OutOfMemory, match="a/denoiser"):
        kit.session().context(interface(), STREAM).enqueue(STREAM)


def test_a_context_that_is_refused_for_another_reason_is_a_fault_and_closes_nothing(kit: Kit) -> None:
    kit.answers["ICudaEngine.create_execution_context"] = None

    with pytest.raises(EngineFault, match="a/denoiser: no context could be made"):
        kit.session().context(interface(), STREAM)


def test_rtx_says_from_the_header_that_a_card_is_too_small(rtx: Kit) -> None:
    lack = int(rtx.module.EngineInvalidityDiagnostics.INSUFFICIENT_GPU_MEMORY)
    rtx.answers["Runtime.get_engine_validity"] = (rtx.module.EngineValidity.INVALID, lack)

    with pytest.raises(OutOfMemory, match="too little memory for it"):
        rtx.session()


def test_shapes_that_no_profile_takes_are_refused_with_the_shapes(kit: Kit) -> None:
    with pytest.raises(EngineRefused, match=r"no profile takes sample \[9, 4, 8, 8\]"):
        kit.session().context(interface(rows=9), STREAM)


@pytest.mark.parametrize(
    ("call", "message"),
    [("set_tensor_address", "sample cannot be bound"), ("set_input_shape", r"sample cannot be \[4, 4, 8, 8\]")],
)
def test_what_the_library_refuses_is_a_fault_that_names_the_tensor(kit: Kit, call: str, message: str) -> None:
    kit.answers[f"IExecutionContext.{call}"] = False
    memory = Buffer(Allocation(Place.DEVICE, 0x7F00_0000_0000, 256), 0, 256)

    with pytest.raises(EngineFault, match=message):
        kit.session().context(interface(), STREAM).bind({"sample": memory})


def test_a_refit_that_needs_more_weights_names_them(kit: Kit) -> None:
    kit.answers["Refitter.get_missing_weights"] = ["bias"]
    weights = {"kernel": np.ones(8, np.float16)}

    with pytest.raises(EngineFault, match="also needs bias to refit 1 weights"):
        kit.session(pristine=weights).refit(weights, STREAM)


class Sm89(CpuDevice):
    """The processor, that says it is a card."""

    @property
    def properties(self) -> DeviceProperties:
        return replace(super().properties, sm=89)


def test_a_stored_engine_is_loaded_called_and_unloaded_as_its_library_declares(kit: Kit, tmp_path: Path) -> None:
    shipped = find_models()["shapes-tiny"]
    files = {name: replace(one, digest="1" * 64) for name, one in shipped.networks.items()}
    model = replace(shipped, networks=files)
    bucket = Bucket(width=64, height=64, rows=2)
    spec = EngineSpec(model=model, network="vae_decoder", bucket=bucket)
    (latent,), (pixels,) = spec.interface.inputs, spec.interface.outputs
    mode, tensors = kit.module.TensorIOMode, {one.name: one for one in (latent, pixels)}
    kit.answers |= {
        "ICudaEngine.get_tensor_name": lambda index: tuple(tensors)[index],
        "ICudaEngine.get_tensor_mode": lambda one: mode.INPUT if one == latent.name else mode.OUTPUT,
        "ICudaEngine.get_tensor_shape": lambda one: (-1, *tensors[one].shape[1:]),
        "ICudaEngine.get_tensor_profile_shape": [latent.at(1), latent.shape, latent.shape],
    }
    store = Store(tmp_path)
    identity = Identity(
        architecture=model.architecture,
        component=spec.network,
        graph="0" * 64,
        weights="1" * 64,
        precision="float16",
        profiles=((InputRange(name=latent.name, min=latent.at(1), opt=latent.shape, max=latent.shape),),),
        flags={"weight_streaming": True},
        library=kit.library.name,
        library_version=kit.version,
        compute_capabilities=(89,),
    )
    with store.building(identity) as staging:
        staging.write("engine.plan", b"plan")
        staging.phase_done("build", ("engine.plan",), seconds=1.0)
        staging.publish(models=(model.name,), certificate=Certificate(verdict="passed"), files=("engine.plan",))
    source = StoredSource(kit.library.name, store, installed=kit.version, sm=89, open_device=Sm89)
    backend = OnDeviceBackend(kit.library.name, source)

    before = source.footprint(spec).activations
    backend.stream_weights(spec, 3072)
    calls = HostCalls(backend.device, backend.load(spec, backend.device.create_stream("decode")))
    for rows in (2, 1, 2):
        (given,) = calls.run(rows, {latent.name: np.zeros(latent.at(rows))}).values()
        assert given.shape == pixels.at(rows)
        assert given.dtype == np.float32
    mapped = Path("/proc/self/maps").read_text()
    calls.close()
    calls.engine.close()
    backend.unload(model, spec.network)
    left = {double._of.__name__ for double in kit.recorded.living}

    assert {"deserialize_cuda_engine", "get_tensor_dtype", "set_tensor_address", "execute_async_v3"} <= kit.used
    assert "engine.plan" not in mapped
    assert not left & {"ICudaEngine", "IExecutionContext"}, "who holds a closed engine holds its weights"
    assert (before, source.footprint(spec).activations) == (0, 4096 + 64)
    assert "weight_streaming_budget_v2" in kit.used
    if kit.library.name == "tensorrt-rtx":
        properties = source.device.properties
        card = f"{properties.name} SM{properties.sm}"
        assert store.kernels(source.engine_of(spec), kit.version, card).read() == b"kernels"
