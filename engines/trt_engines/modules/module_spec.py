"""One network of an architecture as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trt_engines.architectures.network import Network
from trt_engines.architectures.ports import Ports
from trt_engines.architectures.tensor import Tensor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSpec:
    """One network of an architecture as a PyTorch module.

    `make` builds the module that is exported from a configuration (`config`, or `small_config` for tests): its
    `forward` takes the network's inputs positionally, in their order, and returns one tensor, or a tuple in the order
    of the outputs. It is called under any default device and type (meta, fake tensors), so it must not look at values.
    The network that carries the weights is its attribute `model`: parameter names are `model.` plus the library's own.
    """

    network: Network
    make: Callable[[Mapping[str, Any]], nn.Module]
    config: Mapping[str, Any]
    small_config: Mapping[str, Any]
    ports: Callable[[Mapping[str, Any]], Ports] | None = None
    """Those of a configuration, where its widths show in them; None: they are the same for all."""
    lacking: tuple[str, Mapping[str, Any]] | None = None
    """A weight that some published files lack, by the library's name, and what a configuration without it changes;
    None: all have the same weights."""

    def configured(self, config: Mapping[str, Any]) -> ModuleSpec:
        """The same network of another configuration, such as a smaller model of the family."""
        network = replace(self.network, ports=self.ports(config)) if self.ports else self.network
        return replace(self, config=config, network=network)

    @property
    def small(self) -> ModuleSpec:
        """The network for tests."""
        return self.configured(self.small_config)

    @property
    def name(self) -> str:
        """The network's."""
        return self.network.name

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The network's."""
        return self.network.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The network's."""
        return self.network.outputs
