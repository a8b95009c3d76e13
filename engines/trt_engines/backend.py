"""The one seam between the device process and whatever runs a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trt_engines.architectures.ports import Ports
from trt_engines.bucket import Bucket
from trt_engines.devices.device import Device, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.interface import Interface, TensorSpec
from trt_engines.model import Model, NetworkFiles
from trt_engines.residency import Footprint, Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """Which network, for which shapes."""

    model: Model
    network: str  # a name of the model's architecture
    bucket: Bucket

    @property
    def label(self) -> str:
        """Name in logs and metrics, as in `shapes-tiny/denoiser/256x256r8t77`."""
        return f"{self.model.name}/{self.network}/{self.bucket.label}"

    @property
    def ports(self) -> Ports:
        """What the network takes and gives."""
        return self.model.facts.network(self.network).ports

    @property
    def interface(self) -> Interface:
        """Its tensors in the bucket, in the architecture's own sizes: an engine may declare others."""
        return self.ports.at(self.bucket)

    @property
    def parameters(self) -> int:
        """How many weights the network has."""
        own = self.files.parameters if self.files is not None else None
        return own if own is not None else self.model.facts.network(self.network).parameters

    @property
    def files(self) -> NetworkFiles | None:
        """The network's files; None: the model has none of it."""
        return self.model.networks.get(self.network)


class Engine(Protocol):
    """A network ready to run in one bucket, in one stream of a device: its tensors are bound once and stay."""

    @property
    def label(self) -> str:
        """Name in logs and errors."""

    @property
    def stream(self) -> Stream:
        """Where its calls run, and where its tensors are to be written and read."""

    @property
    def rows(self) -> int:
        """Rows that a call takes at most."""

    @property
    def interface(self) -> Interface:
        """Its tensors at full rows, in the types that the network takes and gives."""

    def tensor(self, name: str) -> TensorSpec:
        """One of its tensors at full rows."""

    def part(self, name: str, rows: int) -> Buffer:
        """The first rows of a tensor. Raises: ValueError: its rows do not lie together."""

    def of_call(self, name: str, rows: int) -> Buffer:
        """A tensor as a call with so many rows has it: without gaps, whatever its row axis is."""

    def run(self, rows: int) -> None:
        """Put a call of the first `rows` rows into the stream, 1 <= rows <= self.rows.

        Raises: EngineFault: the library refused it. OutOfMemory: the device has no room.
        """

    def close(self) -> None:
        """Wait for the stream and free what the engine holds; it cannot be used any more."""


class EngineBackend(Protocol):
    """One way to run a network: TensorRT, ONNX Runtime and PyTorch differ behind these verbs and nowhere else."""

    @property
    def name(self) -> str:
        """As configurations and plans call it."""

    @property
    def device(self) -> Device:
        """Where its engines' tensors are; not touched before it is asked for. Raises: DeviceUnavailable."""

    @property
    def memory(self) -> Memory:
        """Whose memory its networks fill, wherever their tensors are."""

    def refuses(self, spec: EngineSpec) -> str | None:
        """Why this backend cannot run the network, in an operator's words; None: it can."""

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Memory that the network's engine will take, as far as it can be told beforehand; loads nothing."""

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        """Make an engine in a stream of the backend's device.

        Raises: StaleEngine, OutOfMemory, EngineFault, EngineRefused.
        """

    def unload(self, model: Model, network: str) -> None:
        """Free what the engines of a network share, all of which have been closed."""
