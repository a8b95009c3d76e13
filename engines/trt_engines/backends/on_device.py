"""The backend of every library: sessions of a source, and engines of them on the source's device.

Which engines there are and what runs them is the source's business; everything else is the same for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from trt_engines.backend import Engine, EngineSpec
from trt_engines.devices.device import Device, Stream
from trt_engines.errors import EngineError, EngineRefused
from trt_engines.interface import Interface, TensorSpec, interface_of
from trt_engines.kernels.kernel import VALUE_TYPES
from trt_engines.model import Component, Model
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.activation import SharedActivation
from trt_engines.sessions.bound import BoundEngine
from trt_engines.sessions.session import Session
from trt_engines.streaming import StreamsWeights


class SessionSource(Protocol):
    """Where a backend's engines come from, and the device that they run on."""

    @property
    def device(self) -> Device:
        """The device, which is not touched before this is first asked for. Raises: DeviceUnavailable."""

    @property
    def memory(self) -> Memory:
        """Whose memory its networks fill."""

    def refuses(self, spec: EngineSpec) -> str | None:
        """Why there is no engine for it, and what to do, in one line; None: there is one. Loads no library."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Memory that it will take, as far as it can be told without loading it."""

    def engine_of(self, spec: EngineSpec) -> str:
        """Which engine serves it: buckets of one engine share a session. Raises: EngineRefused, StaleEngine."""

    def open(self, spec: EngineSpec) -> Session:
        """Load that engine. Raises: StaleEngine, OutOfMemory, EngineFault, EngineRefused."""


class OnDeviceBackend:
    """A source's engines, each loaded once however many buckets it serves.

    Engines of a stream run in turn and share the memory that they need between their layers.
    """

    def __init__(self, name: str, source: SessionSource) -> None:
        self.name = name
        self._source = source
        self._activations: dict[Stream, SharedActivation] = {}
        self._sessions: dict[tuple[str, Component], dict[str, Session]] = {}

    @property
    def device(self) -> Device:
        return self._source.device

    @property
    def memory(self) -> Memory:
        return self._source.memory

    def refuses(self, spec: EngineSpec) -> str | None:
        return self._source.refuses(spec)

    def footprint(self, spec: EngineSpec) -> Footprint:
        return self._source.footprint(spec)

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        if isinstance(self._source, StreamsWeights):  # the footprints of others say that nothing can be streamed
            self._source.stream_weights(spec, size)

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        sessions = self._sessions.setdefault((spec.model.name, spec.component), {})
        name = self._source.engine_of(spec)
        if stream not in self._activations:
            self._activations[stream] = SharedActivation(self.device, stream)
        opened = name not in sessions
        if opened:
            sessions[name] = self._source.open(spec)
        try:
            interface = declared_interface(spec, sessions[name])
            activation = self._activations[stream]
            return BoundEngine(self.device, sessions[name], interface, stream, activation, label=spec.label)
        except EngineError:
            if opened:
                sessions.pop(name).close()
            raise

    def unload(self, model: Model, component: Component) -> None:
        for session in self._sessions.pop((model.name, component), {}).values():
            session.close()


def declared_interface(spec: EngineSpec, session: Session) -> Interface:
    """The tensors that the worker gives and takes, in the types that the engine declares.

    Raises: EngineRefused: the engine has others, or of types that nothing here converts to.
    """
    declared, layers = session.tensors, 1
    if spec.component is Component.TEXT_ENCODER and "context" in declared:
        layers = declared["context"].shape[0]
    interface = interface_of(spec, text_layers=layers)
    if other := declared.keys() ^ {tensor.name for tensor in interface.tensors}:
        raise EngineRefused(
            f"{session.label} and this worker do not have the tensors {', '.join(sorted(other))} in common: "
            f"the worker does not run this kind of {spec.component.value}"
        )

    def typed(tensor: TensorSpec) -> TensorSpec:
        found = declared[tensor.name].dtype
        # The step uploads timesteps as they are; all other numbers go through the kernels or are converted on the host.
        fits = found == tensor.dtype if tensor.name == "timestep" else found in VALUE_TYPES
        if tensor.dtype != np.float32:
            fits = found.kind == tensor.dtype.kind
        if not fits:
            raise EngineRefused(f"{session.label} has {tensor.name} as {found}, which this worker does not give")
        return replace(tensor, dtype=found)

    return Interface(
        inputs=tuple(typed(one) for one in interface.inputs), outputs=tuple(typed(one) for one in interface.outputs)
    )
