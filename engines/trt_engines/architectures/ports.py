"""What a network takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from trt_engines.architectures.axis import Axis, Quantity, Sizes, sizes_of
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.tensor import Kind, Tensor
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineRefused
from trt_engines.interface import Interface, TensorSpec

if TYPE_CHECKING:
    from trt_engines.sessions.session import Declared

_TYPES: Mapping[Kind, tuple[np.dtype[Any], ...]] = {
    Kind.REAL: tuple(np.dtype(one) for one in (np.float32, np.float16, ml_dtypes.bfloat16)),
    Kind.FLOAT32: (np.dtype(np.float32),),
    Kind.INT64: (np.dtype(np.int64), np.dtype(np.int32)),  # some libraries build engines of the narrower one alone
    Kind.BOOL: (np.dtype(np.bool_),),
}
"""What an engine may declare a tensor as; the first where no engine says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Inputs and outputs of a network."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def input(self, name: str) -> Tensor:
        """The input called `name`. Raises: KeyError: there is none."""
        for tensor in self.inputs:
            if tensor.name == name:
                return tensor
        raise KeyError(f"no input {name!r}; there are {', '.join(tensor.name for tensor in self.inputs)}")

    def fed(self, feed: Feed) -> Tensor:
        """The one input that a feed fills. Raises: KeyError: there is none."""
        for tensor in self.inputs:
            if tensor.feed is feed:
                return tensor
        raise KeyError(f"no input is fed with {feed}")

    @property
    def along_tokens(self) -> frozenset[str]:
        """The inputs that have a value for each text token."""
        return frozenset(
            tensor.name for tensor in self.inputs if any(axis.quantity is Quantity.TOKENS for axis in tensor.axes)
        )

    def sized(self, shapes: Mapping[str, tuple[int, ...]]) -> Ports:
        """The same with other fixed sizes of inputs, as a smaller model has them.

        Args: shapes: of inputs by name; what stands at a dynamic axis is not looked at. Others stay as they are.
        """

        def resized(tensor: Tensor) -> Tensor:
            own = shapes.get(tensor.name)
            if own is None or len(own) != len(tensor.shape):
                return tensor
            mixed = (part if isinstance(part, Axis) else size for part, size in zip(tensor.shape, own, strict=True))
            return replace(tensor, shape=tuple(mixed))

        return replace(self, inputs=tuple(map(resized, self.inputs)))

    def at(self, bucket: Bucket, declared: Mapping[str, Declared] = MappingProxyType({})) -> Interface:
        """The tensors of a call at a bucket's full rows.

        Dynamic axes have the bucket's sizes. All other sizes and the types are those that the engine declares: a
        smaller model of an architecture has narrower tensors, and a build chooses the type of real values.

        Args:
            declared: the engine's tensors by name. None at all: the architecture's own sizes, real values in float32.

        Raises: EngineRefused: the engine has other tensors, of other ranks, or of types that the network cannot have.
        """
        sizes = sizes_of(bucket)
        if declared and (other := declared.keys() ^ {one.name for one in (*self.inputs, *self.outputs)}):
            raise EngineRefused(f"the tensors {', '.join(sorted(other))} are not in both the network and its engine")

        def bound(tensor: Tensor) -> TensorSpec:
            return _bound(tensor, sizes, declared.get(tensor.name))

        return Interface(inputs=tuple(map(bound, self.inputs)), outputs=tuple(map(bound, self.outputs)))


def _bound(tensor: Tensor, sizes: Sizes, declared: Declared | None) -> TensorSpec:
    """A tensor in a bucket, fixed sizes and type as declared."""
    shape, types = tensor.at(sizes), _TYPES[tensor.kind]
    if declared is None:
        return TensorSpec(name=tensor.name, shape=shape, dtype=types[0], row_axis=tensor.row_axis)
    if len(declared.shape) != len(shape):
        raise EngineRefused(
            f"{tensor.name} has {len(declared.shape)} axes in the engine and {len(shape)} in the network"
        )
    if declared.dtype not in types:
        named = " or ".join(str(one) for one in types)
        raise EngineRefused(f"{tensor.name} is {declared.dtype} in the engine, and can only be {named}")
    mixed = (
        own if isinstance(part, Axis) or told < 0 else told
        for part, own, told in zip(tensor.shape, shape, declared.shape, strict=True)
    )
    return TensorSpec(name=tensor.name, shape=tuple(mixed), dtype=declared.dtype, row_axis=tensor.row_axis)
