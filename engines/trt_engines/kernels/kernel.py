"""A kernel as data: its parameters, its twin, and one call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trt_engines.devices.memory import Buffer
from trt_engines.devices.operations import Bytes, KernelOperation, Work

FLOAT: Final = np.dtype(np.float32)
HALF: Final = np.dtype(np.float16)
BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)
VALUE_TYPES: Final = {FLOAT: "float", HALF: "Half", BFLOAT16: "BFloat16"}
"""Types of an engine's tensors that kernels take, with their names in CUDA C."""

BLOCK: Final = 256
"""Threads of a block."""


class Role(Enum):
    """What a kernel does with a parameter."""

    READ = "read"
    WRITE = "write"  # every element is written
    UPDATE = "update"  # read, and written in part or all
    SCALAR = "scalar"


class Element(Enum):
    """C type of a parameter; VALUE is the engine's own type and chosen per call."""

    VALUE = "VALUE"
    FLOAT = "float"
    INT = "int"
    LONG = "long long"
    BYTE = "unsigned char"

    def dtype(self, value: np.dtype[Any]) -> np.dtype[Any]:
        """The NumPy type, where VALUE stands for `value`."""
        return value if self is Element.VALUE else _DTYPES[self]


_DTYPES: dict[Element, np.dtype[Any]] = {
    Element.FLOAT: FLOAT,
    Element.INT: np.dtype(np.int32),
    Element.LONG: np.dtype(np.int64),
    Element.BYTE: np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: a pointer, or for scalars a value."""

    name: str
    element: Element
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A `__global__` function of a `.cu` file of this folder, and the same computation in NumPy.

    The twin takes flat arrays and scalars in the order of the parameters, and writes into them.
    """

    name: str
    source: str  # file name
    parameters: tuple[Parameter, ...]
    twin: Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCall:
    """A kernel with its arguments; `threads` are along x, one row of blocks for each of `rows`."""

    kernel: Kernel
    value: np.dtype[Any]
    arguments: tuple[Buffer | int | float, ...]
    threads: int
    rows: int
    _work: Work = field(init=False, compare=False, repr=False)  # a step launches the same call again and again

    def __post_init__(self) -> None:
        if self.value not in VALUE_TYPES:
            known = ", ".join(str(one) for one in VALUE_TYPES)
            raise ValueError(f"{self.kernel.name} takes {known}, and was called for {self.value}")
        if len(self.arguments) != len(self.kernel.parameters):
            raise ValueError(
                f"{self.kernel.name} has {len(self.kernel.parameters)} parameters and was given {len(self.arguments)}"
            )
        for parameter, argument in zip(self.kernel.parameters, self.arguments, strict=True):
            if isinstance(argument, Buffer) is (parameter.role is Role.SCALAR):
                raise ValueError(f"{self.kernel.name}: {parameter.name} cannot be {argument}")
        operation = KernelOperation(
            kernel=self.kernel.name,
            read=sum(one.size for one in self.reads),
            written=sum(one.size for one in self.writes),
        )
        work = Work(operation=operation, reads=self.reads, writes=self.writes, run=self._run_twin)
        object.__setattr__(self, "_work", work)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks along x, y and z."""
        return -(-self.threads // BLOCK), self.rows, 1

    @property
    def reads(self) -> tuple[Buffer, ...]:
        return self._buffers(Role.READ, Role.UPDATE)

    @property
    def writes(self) -> tuple[Buffer, ...]:
        return self._buffers(Role.WRITE, Role.UPDATE)

    def work(self) -> Work:
        """The call for a device that computes on the host."""
        return self._work

    def _run_twin(self, bytes_of: Callable[[Buffer], Bytes]) -> None:
        arguments: list[NDArray[Any] | int | float] = []
        for parameter, argument in zip(self.kernel.parameters, self.arguments, strict=True):
            if isinstance(argument, Buffer):
                arguments.append(bytes_of(argument).view(parameter.element.dtype(self.value)))
            else:
                arguments.append(argument)
        self.kernel.twin(*arguments)

    def _buffers(self, *roles: Role) -> tuple[Buffer, ...]:
        pairs = zip(self.kernel.parameters, self.arguments, strict=True)
        return tuple(one for parameter, one in pairs if parameter.role in roles and isinstance(one, Buffer))
