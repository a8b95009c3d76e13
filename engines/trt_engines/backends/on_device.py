"""The backend of every library: sessions of a source, and engines of them on the source's device.

Which engines there are and what runs them is the source's business; everything else is the same for all.
"""

from __future__ import annotations

from typing import Protocol

from trt_engines.backend import Engine, EngineSpec
from trt_engines.devices.device import Device, Stream
from trt_engines.errors import EngineError
from trt_engines.model import Model
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
        self._sessions: dict[tuple[str, str], dict[str, Session]] = {}

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
        sessions = self._sessions.setdefault((spec.model.name, spec.network), {})
        name = self._source.engine_of(spec)
        if stream not in self._activations:
            self._activations[stream] = SharedActivation(self.device, stream)
        opened = name not in sessions
        if opened:
            sessions[name] = self._source.open(spec)
        try:
            interface = spec.ports.at(spec.bucket, sessions[name].tensors)
            activation = self._activations[stream]
            return BoundEngine(self.device, sessions[name], interface, stream, activation, label=spec.label)
        except EngineError:
            if opened:
                sessions.pop(name).close()
            raise

    def unload(self, model: Model, network: str) -> None:
        for session in self._sessions.pop((model.name, network), {}).values():
            session.close()
