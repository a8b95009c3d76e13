"""Engines on devices that compute on the host, checked as strictly as no library does.

The plan stands for a built engine: the graph it was built from, with the profiles it was built for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from trt_engines.devices.device import HostComputingDevice, Stream
from trt_engines.devices.memory import Buffer
from trt_engines.devices.operations import Bytes, Network, NetworkOperation, Work
from trt_engines.devices.simulated.hazards import BindingUnset, ContextOnTwoStreams, OutsideProfile, Site, site
from trt_engines.interface import Interface, TensorSpec
from trt_engines.sessions.session import Declared, ProfileShapes, covering


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """What stands for a built engine."""

    label: str
    network: Network
    profiles: tuple[ProfileShapes, ...]
    tensors: Mapping[str, Declared] = field(default_factory=dict)
    weight_bytes: int = 0  # of device memory, as long as it is loaded
    activation_bytes: int = 1  # of device memory, for a call


class HostSession:
    """A plan on a device. Raises: OutOfMemory: its weights do not fit."""

    def __init__(self, device: HostComputingDevice, plan: HostPlan) -> None:
        self.label = plan.label
        self.profiles = plan.profiles
        self.tensors = plan.tensors
        self._device = device
        self._plan = plan
        self._loaded = site(f"loading {plan.label}")
        self._weights = device.allocate(plan.weight_bytes) if plan.weight_bytes else None

    def context(self, interface: Interface, stream: Stream) -> HostContext:
        where = site(f"making a context of {self.label}")
        number = covering(self.profiles, interface)
        if number is None:
            raise OutsideProfile(self._loaded, where)
        return HostContext(self._device, self._plan, interface, self.profiles[number], stream, where)

    def close(self) -> None:
        if self._weights is not None:
            self._device.free(self._weights)


class HostContext:
    """One plan, ready for one bucket on one stream."""

    capturable = True

    def __init__(
        self,
        device: HostComputingDevice,
        plan: HostPlan,
        interface: Interface,
        profile: ProfileShapes,
        stream: Stream,
        made: Site,
    ) -> None:
        self.interface = interface
        self.activation_bytes = plan.activation_bytes
        self._device = device
        self._plan = plan
        self._profile = profile
        self._stream = stream
        self._made = made
        self._activation: Buffer | None = None
        self._bound: dict[str, Buffer] = {}
        self._rows = 0
        self._changed = made  # where it was given anything last

    def use_activation(self, memory: Buffer) -> None:
        self._changed = site(f"giving {self._plan.label} activation memory")
        self._activation = memory

    def bind(self, tensors: Mapping[str, Buffer]) -> None:
        self._changed = site(f"binding tensors of {self._plan.label}")
        self._bound.update(tensors)

    def set_rows(self, rows: int) -> None:
        for tensor in self.interface.inputs:
            if not self._profile[tensor.name].covers(tensor.at(rows)):
                raise OutsideProfile(self._made, site(f"giving {tensor.name} of {self._plan.label} {rows} rows"))
        self._changed = site(f"giving {self._plan.label} {rows} rows")
        self._rows = rows

    def enqueue(self, stream: Stream) -> None:
        """Raises: BindingUnset, ContextOnTwoStreams, OutsideProfile (rows were never set)."""
        if stream is not self._stream:
            raise ContextOnTwoStreams(self._made, site(f"running {self._plan.label} in stream {stream.label!r}"))
        if not self._rows:
            raise OutsideProfile(self._made, site(f"running {self._plan.label} before its rows were set"))
        if self._activation is None or self._activation.size < self.activation_bytes:
            raise BindingUnset(self._made, site(f"running {self._plan.label} without activation memory"))
        inputs = [(tensor, self._place(tensor)) for tensor in self.interface.inputs]
        outputs = [(tensor, self._place(tensor)) for tensor in self.interface.outputs]
        rows, network = self._rows, self._plan.network

        def run(bytes_of: Callable[[Buffer], Bytes]) -> None:
            def array(tensor: TensorSpec, buffer: Buffer) -> NDArray[Any]:
                return bytes_of(buffer).view(tensor.dtype).reshape(tensor.at(rows))

            results = network({tensor.name: array(tensor, buffer) for tensor, buffer in inputs})
            for tensor, buffer in outputs:
                array(tensor, buffer)[...] = results[tensor.name]

        operation = NetworkOperation(
            engine=self._plan.label,
            shapes=tuple((tensor.name, tensor.at(rows)) for tensor, _ in (*inputs, *outputs)),
            rows=rows,
        )
        work = Work(
            operation=operation,
            reads=tuple(buffer for _, buffer in inputs),
            writes=(*(buffer for _, buffer in outputs), self._activation),
            run=run,
            state=lambda: self._changed,
        )
        self._device.enqueue(work, stream)

    def close(self) -> None:
        self._activation = None
        self._bound.clear()

    def _place(self, tensor: TensorSpec) -> Buffer:
        """The bytes of the tensor's rows in this call. Rows that are not the first axis must be all of them."""
        buffer, rows = self._bound.get(tensor.name), self._rows
        size = tensor.bytes_at(rows)
        if buffer is None or buffer.size < size:
            given = "nothing" if buffer is None else f"{buffer.size} bytes"
            raise BindingUnset(self._made, site(f"running {self._plan.label} with {given} for {tensor.name}"))
        return buffer.part(0, size)
