"""A backend that fails by script, in every way that a card can: the instrument that failover is tried with."""

from __future__ import annotations

from threading import Event

from trt_engines.backend import Engine, EngineBackend, EngineSpec
from trt_engines.backends.faults import AT_LOAD, IN_CALL, Fault, FaultScript, script_of_process
from trt_engines.devices.device import Device, Stream
from trt_engines.devices.errors import DeviceFault
from trt_engines.devices.memory import Buffer
from trt_engines.errors import OutOfMemory, StaleEngine
from trt_engines.interface import TensorSpec
from trt_engines.model import Model
from trt_engines.residency import Footprint, Memory

_NOT_A_NUMBER = 0xFF
"""A float of any width whose bytes are all this."""


class FaultyBackend:
    """Another backend, whose loads and calls the process's script strikes (see `faults`)."""

    name = "faulty"

    def __init__(self, inner: EngineBackend) -> None:
        self._inner = inner
        self._dealer: _Dealer | None = None

    @property
    def device(self) -> Device:
        return self._inner.device

    @property
    def memory(self) -> Memory:
        return self._inner.memory

    def refuses(self, spec: EngineSpec) -> str | None:
        return self._inner.refuses(spec)

    def footprint(self, spec: EngineSpec) -> Footprint:
        return self._inner.footprint(spec)

    def load(self, spec: EngineSpec, stream: Stream) -> Engine:
        if self._dealer is None:
            self._dealer = _Dealer(script_of_process())
        self._dealer.load(spec.label)
        return FaultyEngine(self._inner.load(spec, stream), self.device, self._dealer)

    def unload(self, model: Model, network: str) -> None:
        self._inner.unload(model, network)


class FaultyEngine:
    """An engine whose calls may be struck."""

    def __init__(self, inner: Engine, device: Device, dealer: _Dealer) -> None:
        self.label = inner.label
        self.stream = inner.stream
        self.rows = inner.rows
        self.interface = inner.interface
        self._inner = inner
        self._device = device
        self._dealer = dealer

    def tensor(self, name: str) -> TensorSpec:
        return self._inner.tensor(name)

    def part(self, name: str, rows: int) -> Buffer:
        return self._inner.part(name, rows)

    def of_call(self, name: str, rows: int) -> Buffer:
        return self._inner.of_call(name, rows)

    def run(self, rows: int) -> None:
        """Raises: OutOfMemory, DeviceFault. May never return."""
        spoil = self._dealer.call(self.label)
        self._inner.run(rows)
        if spoil:
            for output in self.interface.outputs:
                first = self.of_call(output.name, rows).part(0, output.dtype.itemsize)
                self._device.fill(first, _NOT_A_NUMBER, self.stream)

    def close(self) -> None:
        self._inner.close()


class _Dealer:
    """Strikes the loads and calls of this process."""

    def __init__(self, script: FaultScript) -> None:
        self._script = script
        self._stays_full = False  # the retry finds no memory either

    def load(self, label: str) -> None:
        number = self._script.count("loads")
        match self._script.fate(AT_LOAD, number):
            case Fault.FULL_AT_LOAD as fault:
                self._struck(fault)
                self._full(number, label)
            case Fault.STALE as fault:
                self._struck(fault)
                raise StaleEngine(f"{label}: the plan is corrupted, says the script")
        self._still_full(label)

    def call(self, label: str) -> bool:
        """Returns: whether the results are to be spoilt."""
        self._still_full(label)
        number = self._script.count("calls")
        fault = self._script.fate(IN_CALL, number)
        if fault is not None:
            self._struck(fault)
        match fault:
            case Fault.FULL:
                self._full(number, label)
            case Fault.STICKY:
                raise DeviceFault(f"{label}: an illegal address was met, says the script")
            case Fault.HANG:
                Event().wait()  # nobody will ever set it
        return fault is Fault.NOT_FINITE

    def _struck(self, fault: Fault) -> None:
        self._script.count(fault)

    def _full(self, number: int, label: str) -> None:
        self._stays_full = number % 2 == 1  # every other one goes away when something is closed
        raise OutOfMemory(f"{label}: the card is full, says the script")

    def _still_full(self, label: str) -> None:
        if self._stays_full:
            self._stays_full = False
            raise OutOfMemory(f"{label}: the card is still full, says the script")
