"""Networks that are host code, for any bucket: what runs on the processor, and on the device that stands for a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trt_engines.backend import EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network
from trt_engines.interface import Interface
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.host import HostPlan, HostSession
from trt_engines.sessions.session import Declared, ProfileShapes, ShapeRange

SMALLEST = Bucket(width=8, height=8, rows=1)
LARGEST = Bucket(width=1 << 16, height=1 << 16, rows=1 << 12, tokens=1 << 16)


def any_size(spec: EngineSpec, tensors: Mapping[str, Declared]) -> ProfileShapes:
    """A profile that takes every bucket from SMALLEST to LARGEST, for nothing is built for a size.

    Args: tensors: as the network declares them.
    """
    low, high = (spec.ports.at(bucket, tensors).inputs for bucket in (SMALLEST, LARGEST))
    return {
        one.name: ShapeRange(min=one.shape, opt=other.shape, max=other.shape)
        for one, other in zip(low, high, strict=True)
    }


def declared(interface: Interface) -> dict[str, Declared]:
    """The tensors of a network that declares none itself, by name."""
    return {one.name: Declared(dtype=one.dtype, shape=one.shape) for one in interface.tensors}


def network_plan(
    spec: EngineSpec, network: Network, tensors: Mapping[str, Declared] | None = None, *, weight_bytes: int = 0
) -> HostPlan:
    """What stands for a built engine that takes any size.

    Args:
        tensors: as the network declares them; None: in the architecture's own sizes.
        weight_bytes: device memory that it fills beside what the network itself holds.
    Raises: EngineRefused: the network has other tensors than the architecture.
    """
    own = tensors if tensors is not None else declared(spec.interface)
    return HostPlan(
        label=f"{spec.model.name}/{spec.network}",
        network=network,
        profiles=(any_size(spec, own),),
        tensors=own,
        weight_bytes=weight_bytes,
    )


def memory_of(device: HostComputingDevice) -> Memory:
    """Whose memory networks fill that compute on a device: the simulated card is a card."""
    return Memory.MACHINE if isinstance(device, CpuDevice) else Memory.CARD


class NetworkSource:
    """Networks that are computed from no weights; what the worker is tried with.

    Args:
        network_of: what computes a network in a bucket, for any number of rows up to the bucket's.
        device: where tensors are; None: the processor.
    """

    def __init__(self, network_of: Callable[[EngineSpec], Network], device: HostComputingDevice | None = None) -> None:
        self.device = device or CpuDevice()
        self.memory = memory_of(self.device)
        self._network_of = network_of

    def refuses(self, spec: EngineSpec) -> str | None:
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return Footprint(weights=0)

    def engine_of(self, spec: EngineSpec) -> str:
        return spec.label

    def open(self, spec: EngineSpec) -> HostSession:
        return HostSession(self.device, network_plan(spec, self._network_of(spec)))
