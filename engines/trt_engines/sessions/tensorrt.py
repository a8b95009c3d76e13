"""Engines that TensorRT or TensorRT-RTX runs. Only a card can run this; tests hold every call to the libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from trt_engines.devices.device import Stream
from trt_engines.devices.memory import Buffer
from trt_engines.errors import EngineFault, EngineRefused, OutOfMemory, StaleEngine
from trt_engines.interface import Interface
from trt_engines.sessions.libraries import TOO_LARGE, Library
from trt_engines.sessions.refit import Weights, weights_to_set
from trt_engines.sessions.session import Declared, ProfileShapes, ShapeRange, covering
from trt_engines.sessions.validity import unfit
from trt_engines.store.identity import Identity


class TensorRtSession:
    """A plan in a card's memory, on the device that is current in this thread.

    Args:
        plan: may be a view of a mapped file, so that no second copy of the weights is made.
        identity: what the plan was built from, as the store keeps it.
        sm: compute capability of the card, times ten.
        streamed: bytes of its weights that stay in host memory, where the plan was built for it; the library leaves
            all that it can where that is less.
        made: told each context that is made.
        pristine: the built weights, by name, for engines that are refitted; others need none.
    Raises: StaleEngine: the plan is not for this library, card or driver; the message says which and what to do.
        OutOfMemory. EngineFault: the library does not stream the weights.
    """

    def __init__(
        self,
        library: Library,
        plan: bytes | memoryview,
        *,
        label: str,
        identity: Identity,
        sm: int,
        streamed: int = 0,
        made: Callable[[TensorRtContext], None] | None = None,
        pristine: Weights | None = None,
    ) -> None:
        self.label = label
        self._library = library
        self._logger = _logger(library.trt)
        self._made = made
        self._pristine: Weights = pristine or {}
        self._changed: frozenset[str] = frozenset()
        runtime = library.trt.Runtime(self._logger)
        version = library.trt.__version__
        if reason := unfit(identity, library.name, version, sm) or library.invalid(runtime, plan):
            error = OutOfMemory if reason == TOO_LARGE else StaleEngine
            raise error(f"{label} cannot run here with {library.name}: {reason}")
        self._logger.full = False
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            if self._logger.full:
                raise OutOfMemory(f"{label} cannot be loaded by {library.name}: {self._logger.last}")
            raise StaleEngine(f"{label} cannot be loaded by {library.name}: {self._logger.last}; rebuild it")
        self._runtime = runtime
        self._scratch = self._stream(streamed) if streamed else 0
        self.profiles = _profiles(library.trt, self._engine)
        self.tensors = _tensors(library.trt, self._engine)

    def context(self, interface: Interface, stream: Stream) -> TensorRtContext:
        profile = covering(self.profiles, interface)
        if profile is None:
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in interface.inputs)
            raise EngineRefused(f"{self.label}: no profile takes {shapes}; build one that does")
        self._logger.full = False
        context = self._library.create_context(self._engine)
        if context is None:
            error = OutOfMemory if self._logger.full else EngineFault
            raise error(f"{self.label}: no context could be made: {self._logger.last}")
        if not context.set_optimization_profile_async(profile, stream.handle):
            raise EngineFault(f"{self.label}: profile {profile} was refused: {self._logger.last}")
        ready = TensorRtContext(
            self.label,
            context,
            interface,
            stream,
            self._library,
            self._logger,
            most=int(self._engine.get_device_memory_size_for_profile_v2(profile)),
            scratch=self._scratch,
        )
        self._library.keep_kernels()
        if self._made is not None:
            self._made(ready)
        return ready

    def refit(self, weights: Weights, stream: Stream) -> None:
        """Give the engine these weights and otherwise those it was built with. Addresses, and so graphs, stay.

        Raises: EngineFault: the library refused one, or needs more of them: the engine is then not to be used. Or
        the built value of one is not known; then nothing was changed.
        """
        if lost := sorted(weights.keys() - self._pristine.keys()):
            raise EngineFault(
                f"{self.label}: {', '.join(lost)} could not be put back after a refit: "
                "give the session their built values"
            )
        trt = self._library.trt
        refitter = trt.Refitter(self._engine, self._logger)
        values = weights_to_set(weights, self._changed, self._pristine)
        held = {name: np.ascontiguousarray(value) for name, value in values.items()}  # until the refit has returned
        for name, value in held.items():
            if not refitter.set_named_weights(name, trt.Weights(value)):
                raise EngineFault(f"{self.label} has no weights {name!r} of {value.dtype} {list(value.shape)} to refit")
        if missing := refitter.get_missing_weights():
            raise EngineFault(f"{self.label} also needs {', '.join(missing)} to refit {len(held)} weights")
        if not refitter.refit_cuda_engine_async(stream.handle):
            raise EngineFault(f"{self.label} could not be refitted: {self._logger.last}")
        self._changed = frozenset(weights)

    def close(self) -> None:
        self._engine = None
        self._runtime = None

    def _stream(self, size: int) -> int:
        """Leave weights in host memory, before there is a context.

        Returns: bytes that each context needs to copy them to, counted beside its activations: whether the library
        counts them among those depends on how it is asked, and too much does no harm.
        """
        engine = self._engine
        budget = max(0, engine.streamable_weights_size - size)
        engine.weight_streaming_budget_v2 = budget
        if engine.weight_streaming_budget_v2 > budget:  # a refusal shows in nothing else
            raise EngineFault(f"{self.label} does not stream its weights: {self._logger.last}")
        return int(engine.weight_streaming_scratch_memory_size)


class TensorRtContext:
    """One engine, ready for one bucket on one stream.

    Args:
        stream: that its profile was set in.
        most: bytes between layers that its profile needs at most.
        scratch: bytes that streamed weights need in every call.
    """

    def __init__(
        self,
        label: str,
        context: Any,
        interface: Interface,
        stream: Stream,
        library: Library,
        logger: Any,
        *,
        most: int,
        scratch: int = 0,
    ) -> None:
        self.interface = interface
        self._label = label
        self._context = context
        self._stream = stream
        self._library = library
        self._logger = logger
        self._rows = 0
        self._called: set[int] = set()  # rows of calls so far
        self.set_rows(max(tensor.shape[tensor.row_axis] for tensor in interface.inputs))
        # None are told where the library cannot tell, too: then the profile's are enough.
        self.activation_bytes = (int(context.update_device_memory_size_for_shapes()) or most) + scratch

    @property
    def capturable(self) -> bool:
        return self._library.capturable(self._context, self._stream.handle)

    def use_activation(self, memory: Buffer) -> None:
        if memory.size:  # the library refuses to be given none, and says so to nobody
            self._context.set_device_memory(memory.address, memory.size)

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        for name, buffer in tensors.items():
            self._expect(self._context.set_tensor_address(name, buffer.address), f"{name} cannot be bound")

    def set_rows(self, rows: int) -> None:
        for tensor in self.interface.inputs:
            shape = tensor.at(rows)
            self._expect(self._context.set_input_shape(tensor.name, shape), f"{tensor.name} cannot be {list(shape)}")
        self._rows = rows

    def enqueue(self, stream: Stream) -> None:
        self._logger.full = False
        if not self._context.execute_async_v3(stream.handle):
            error = OutOfMemory if self._logger.full else EngineFault
            raise error(f"{self._label}: the call was refused: {self._logger.last}")
        if self._rows not in self._called:
            self._called.add(self._rows)
            self._library.keep_kernels()  # the first call of a shape compiles them, and the process may be killed

    def close(self) -> None:
        self._context = None  # it keeps the engine with all its weights

    def _expect(self, accepted: bool, otherwise: str) -> None:
        if not accepted:
            raise EngineFault(f"{self._label}: {otherwise}: {self._logger.last}")


def _profiles(trt: Any, engine: Any) -> tuple[ProfileShapes, ...]:
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return tuple(
        {name: _range(engine.get_tensor_profile_shape(name, number)) for name in inputs}
        for number in range(engine.num_optimization_profiles)
    )


def _tensors(trt: Any, engine: Any) -> dict[str, Declared]:
    """Raises: EngineRefused: one is of a type that nothing here converts to."""
    types = {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.HALF: np.dtype(np.float16),
        trt.DataType.BF16: np.dtype(ml_dtypes.bfloat16),
        trt.DataType.INT32: np.dtype(np.int32),
        trt.DataType.INT64: np.dtype(np.int64),
        trt.DataType.BOOL: np.dtype(np.bool_),
    }
    found = {}
    for name in (engine.get_tensor_name(number) for number in range(engine.num_io_tensors)):
        kind = engine.get_tensor_dtype(name)
        if kind not in types:
            raise EngineRefused(f"{name} is a {kind.name}, which the worker neither gives nor takes")
        found[name] = Declared(dtype=types[kind], shape=tuple(engine.get_tensor_shape(name)))
    return found


def _range(shapes: Any) -> ShapeRange:
    low, best, high = (tuple(shape) for shape in shapes)
    return ShapeRange(min=low, opt=best, max=high)


def _logger(trt: Any) -> Any:
    class LastError(trt.ILogger):  # type: ignore[misc, unused-ignore]  # the bindings are not typed
        """Keeps the library's last error for the message of ours, and whether any was about memory."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "the library gave no reason"
            self.full = False

        def log(self, severity: Any, msg: str) -> None:
            if severity in (severity.INTERNAL_ERROR, severity.ERROR):
                self.last = " ".join(msg.split())[:500]
                # `Error Code 1: Cuda Runtime (out of memory)` or `Error Code 2: OutOfMemory (Requested size was ...)`;
                # what failed for it may be told after it.
                self.full = self.full or "outofmemory" in msg.lower().replace(" ", "")

    return LastError()
