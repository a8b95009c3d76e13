"""Engines that run on a device: their tensors are uploaded, the call is made, the results are downloaded.

Which engines there are is a source's business (`graph_source`, `stored_source`); everything else is the same for all.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.devices.device import Device
from trt_engines.devices.memory import Place
from trt_engines.errors import EngineError, EngineRefused
from trt_engines.interface import Interface, TensorSpec, interface_of
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint
from trt_engines.sessions.activation import SharedActivation
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.session import Session
from trt_engines.streaming import StreamsWeights


class SessionSource(Protocol):
    """Where a backend's engines come from, and the device that they run on."""

    @property
    def device(self) -> Device:
        """The device, which is not touched before this is first asked for. Raises: DeviceUnavailable."""

    def refuses(self, spec: EngineSpec) -> str | None:
        """Why there is no engine for it, and what to do, in one line; None: there is one. Loads no library."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Memory that it will take, as far as it can be told without loading it."""

    def engine_of(self, spec: EngineSpec) -> str:
        """Which engine serves it: buckets of one engine share a session. Raises: EngineRefused, StaleEngine."""

    def open(self, spec: EngineSpec) -> Session:
        """Load that engine. Raises: StaleEngine, OutOfMemory, EngineFault, EngineRefused."""


class OnDeviceBackend:
    """A source's engines, each loaded once however many buckets it serves. All calls run in one stream, in turn."""

    def __init__(self, name: str, source: SessionSource) -> None:
        self.name = name
        self._source = source
        self._turns: _Turns | None = None
        self._sessions: dict[tuple[str, Component], dict[str, Session]] = {}

    def refuses(self, spec: EngineSpec) -> str | None:
        return self._source.refuses(spec)

    def footprint(self, spec: EngineSpec) -> Footprint:
        return self._source.footprint(spec)

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        if isinstance(self._source, StreamsWeights):  # the footprints of others say that nothing can be streamed
            self._source.stream_weights(spec, size)

    def load(self, spec: EngineSpec) -> OnDeviceEngine:
        sessions = self._sessions.setdefault((spec.model.name, spec.component), {})
        device, name = self._source.device, self._source.engine_of(spec)
        if self._turns is None:
            self._turns = _Turns(device, self.name)
        opened = name not in sessions
        if opened:
            sessions[name] = self._source.open(spec)
        try:
            return OnDeviceEngine(spec, device, sessions[name], self._turns)
        except EngineError:
            if opened:
                sessions.pop(name).close()
            raise

    def unload(self, model: Model, component: Component) -> None:
        for session in self._sessions.pop((model.name, component), {}).values():
            session.close()


class _Turns:
    """The stream of a backend's calls, and the memory that they work in one after another."""

    def __init__(self, device: Device, label: str) -> None:
        self.stream = device.create_stream(label)
        self.activation = SharedActivation(device, self.stream)


class OnDeviceEngine:
    """One bucket of a session; a call waits for its results.

    Raises: OutOfMemory, EngineRefused. Nothing stays allocated then.
    """

    def __init__(self, spec: EngineSpec, device: Device, session: Session, turns: _Turns) -> None:
        self.spec = spec
        self._device = device
        self._stream = turns.stream
        seen = _seen(spec, session)
        with ExitStack() as held:
            bound = _as_declared(seen, session)
            self._bound = BoundEngine(device, session, bound, turns.stream, turns.activation)
            held.callback(self._bound.close)
            inputs, outputs = (
                [_HostTensor(device, tensor, self._bound.spec(tensor.name), held) for tensor in tensors]
                for tensors in (seen.inputs, seen.outputs)
            )
            self._held = held.pop_all()
        self._inputs, self._outputs = inputs, outputs
        self.inputs = {tensor.name: tensor.array for tensor in inputs}
        self.outputs = {tensor.name: tensor.array for tensor in outputs}

    def run(self, rows: int) -> None:
        if not 1 <= rows <= self.spec.bucket.rows:
            raise ValueError(f"{self.spec.label}: {rows} rows asked of {self.spec.bucket.rows}")
        for tensor in self._inputs:
            tensor.upload(self._bound, rows)
        self._bound.run(rows)
        for tensor in self._outputs:
            tensor.download(self._bound, rows)
        self._device.synchronize(self._stream)
        for tensor in self._outputs:
            tensor.receive(rows)

    def close(self) -> None:
        self._held.close()


class _HostTensor:
    """A tensor as the runtime sees it, beside the pinned memory that is copied.

    Both are one memory where the engine takes the very type, and rows come first. Else values are converted on the
    host; what a narrower type cannot hold becomes infinite, which whoever looks at the results finds.
    """

    def __init__(self, device: Device, seen: TensorSpec, bound: TensorSpec, held: ExitStack) -> None:
        self.name = seen.name
        self._device = device
        self._bound = bound
        self._block = device.allocate(bound.bytes, Place.HOST)
        held.callback(device.free, self._block)
        pinned = device.view(self._block, bound.dtype, bound.shape, write=True)
        pinned[...] = 0
        self._shared = seen.dtype == bound.dtype and bound.row_axis == 0
        self.array: NDArray[Any] = pinned if self._shared else np.zeros(seen.shape, seen.dtype)

    def upload(self, engine: BoundEngine, rows: int) -> None:
        """Put the copy of the first rows into the engine's stream."""
        target = engine.of_call(self.name, rows)
        block = self._block.part(0, target.size)
        pinned = self._device.view(block, self._bound.dtype, self._bound.at(rows), write=True)
        if not self._shared:
            with np.errstate(over="ignore"):
                pinned[...] = self._rows(rows)
        self._device.copy(target, block, engine.stream)

    def download(self, engine: BoundEngine, rows: int) -> None:
        """Put the copy back into the engine's stream."""
        source = engine.of_call(self.name, rows)
        self._device.copy(self._block.part(0, source.size), source, engine.stream)

    def receive(self, rows: int) -> None:
        """Show the rows that were downloaded, now that the host has waited for them."""
        block = self._block.part(0, self._bound.bytes_at(rows))
        pinned = self._device.view(block, self._bound.dtype, self._bound.at(rows))
        if not self._shared:
            self._rows(rows)[...] = pinned

    def _rows(self, rows: int) -> NDArray[Any]:
        return self.array[(slice(None),) * self._bound.row_axis + (slice(rows),)]


def _seen(spec: EngineSpec, session: Session) -> Interface:
    """The tensors of the runtime. Raises: EngineRefused: the engine has others."""
    declared, layers = session.tensors, 1
    if spec.component is Component.TEXT_ENCODER and "context" in declared:
        layers = declared["context"].shape[0]
    interface = interface_of(spec, text_layers=layers)
    if other := declared.keys() ^ {tensor.name for tensor in (*interface.inputs, *interface.outputs)}:
        raise EngineRefused(
            f"{session.label} and this worker do not have the tensors {', '.join(sorted(other))} in common: "
            f"the worker does not run this kind of {spec.component.value}"
        )
    return interface


def _as_declared(interface: Interface, session: Session) -> Interface:
    """The tensors in the types that the engine takes and gives."""
    inputs, outputs = (
        tuple(replace(tensor, dtype=session.tensors[tensor.name].dtype) for tensor in tensors)
        for tensors in (interface.inputs, interface.outputs)
    )
    return Interface(inputs=inputs, outputs=outputs)
