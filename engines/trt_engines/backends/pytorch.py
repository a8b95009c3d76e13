"""PyTorch through the modules that are exported: the fallback, and on the processor the reference too.

Nothing here was run on a card: only a card can prove `_card`, `_computes_bfloat16`, and that modules compute the same
there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.network import Network as DescribedNetwork
from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import declared, memory_of, network_plan
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.bound_weights import BoundNetwork, BoundTensor, read_bindings
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network
from trt_engines.errors import EngineFault, EngineRefused, ModelUnusable, OutOfMemory
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.host import HostSession

if TYPE_CHECKING:
    from trt_engines.modules.module_spec import ModuleSpec

_HALF = {"F16": "float16", "BF16": "bfloat16"}
"""Types of half precision, by safetensors' words."""


def pytorch_backend(threads: int = 0, *, gpu: bool = False) -> OnDeviceBackend:
    """The backend that runs a model's weights through the modules that define its architecture.

    Args:
        threads: threads of one call; 0 takes every core this process may use.
        gpu: compute on the first card that the process sees, NVIDIA's or AMD's (ROCm), in the checkpoint's own half
            precision; tensors stay in host memory and are copied at each call. Otherwise on the processor in float32.
    """
    return OnDeviceBackend("pytorch-gpu" if gpu else "pytorch", PyTorchSource(CpuDevice(), threads, gpu=gpu))


class PyTorchSource:
    """A model's modules, for every size. Args: see `pytorch_backend`."""

    def __init__(self, device: HostComputingDevice, threads: int = 0, *, gpu: bool = False) -> None:
        self.device = device
        self.memory = Memory.CARD if gpu else memory_of(device)
        self._gpu = gpu
        self._threads = threads or len(os.sched_getaffinity(0))

    def refuses(self, spec: EngineSpec) -> str | None:
        for package in ("torch", "diffusers", "transformers"):
            if find_spec(package) is None:
                return f"{package} is not installed (pip install {package})"
        if spec.files is None or spec.files.bindings is None:
            return f"{spec.model.name} has no bindings of its {spec.network}: add the model again"
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Weights in the type that is computed with, the bound tensors, and on a card the activations of a call."""
        size = 4 if not self._gpu or self._type(spec) == "float32" else 2
        bucket, cost = spec.bucket, spec.model.facts.network(spec.network).cost
        row = cost.activation_bytes(width=bucket.width, height=bucket.height, tokens=bucket.tokens)
        return Footprint(
            weights=size * spec.parameters,
            activations=int(row * bucket.rows * size / 2) if self._gpu else 0,
            tensors=spec.interface.bytes,
        )

    def engine_of(self, spec: EngineSpec) -> str:
        return spec.network

    def open(self, spec: EngineSpec) -> HostSession:
        import torch

        from trt_engines.modules.load import load_module

        torch.set_num_threads(self._threads)
        device = _card() if self._gpu else "cpu"
        bound = self._bound(spec)
        module_spec = _module_of(spec, bound)
        type_ = getattr(torch, self._type(spec) if self._gpu else "float32")
        try:
            module = load_module(module_spec, bound, device, type_)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{spec.label} does not fit on the card: {error}") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineFault(f"PyTorch cannot load {spec.label}: {error}") from error
        tensors = declared(module_spec.network.ports.at(spec.bucket))
        return HostSession(self.device, network_plan(spec, _network(spec, module_spec, module, device, type_), tensors))

    def _bound(self, spec: EngineSpec) -> BoundNetwork:
        """Raises: EngineRefused, EngineFault."""
        if spec.files is None or spec.files.bindings is None:
            raise EngineRefused(f"{spec.label}: {self.refuses(spec)}")
        try:
            return _read(spec.files.bindings)
        except ModelUnusable as error:
            raise EngineFault(str(error)) from error

    def _type(self, spec: EngineSpec) -> str:
        """The type that is computed with on a card. Raises: EngineRefused, EngineFault."""
        return compute_type(
            spec.model.facts.network(spec.network), self._bound(spec).tensors, bfloat16=_computes_bfloat16()
        )


def compute_type(network: DescribedNetwork, tensors: Sequence[BoundTensor], *, bfloat16: bool) -> str:
    """What a card computes a network with: the checkpoint's own half precision, if the network does not overflow in it.

    Args: bfloat16: whether the card computes in it.
    """
    sizes = dict.fromkeys(_HALF.values(), 0)
    for one in tensors:
        if one.dtype in _HALF:
            sizes[_HALF[one.dtype]] += sum(piece.length for piece in one.pieces)
    usable = [one for one in network.precisions if one != "bfloat16" or bfloat16]
    own = max(sizes, key=lambda name: sizes[name])
    if sizes[own] and own in usable:
        return own
    return usable[0] if usable else "float32"


def _module_of(spec: EngineSpec, bound: BoundNetwork) -> ModuleSpec:
    from trt_engines.modules.registry import module_of

    own = module_of(spec.model.architecture, spec.network)
    return own if bound.config is None else own.configured(bound.config)


@lru_cache(maxsize=32)  # asked for at every footprint; some thousand weights each
def _read(file: Path) -> BoundNetwork:
    return read_bindings(file)


def _network(spec: EngineSpec, module_spec: ModuleSpec, module: Any, device: str, type_: Any) -> Network:
    from trt_engines.architectures.tensor import Kind

    label = spec.label
    inputs_ = [(one.name, one.kind) for one in module_spec.inputs]
    names = [one.name for one in module_spec.outputs]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        try:
            with torch.inference_mode():
                given = [
                    torch.from_numpy(np.ascontiguousarray(inputs[name])).to(
                        device, type_ if kind is Kind.REAL else None
                    )
                    for name, kind in inputs_
                ]
                made = module(*given)
                outputs = made if isinstance(made, tuple) else (made,)
                return {name: one.float().cpu().numpy() for name, one in zip(names, outputs, strict=True)}
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{label} does not fit on the card with this many rows: {error}") from error
        except RuntimeError as error:
            raise EngineFault(f"{label} failed in PyTorch: {error}") from error

    return run


def _computes_bfloat16() -> bool:
    """Whether the card that this process sees computes in bfloat16, and not by software."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))


def _card() -> str:
    """PyTorch's name of the card that this process sees. Raises: EngineFault: this PyTorch cannot compute on it."""
    import torch

    if not torch.cuda.is_available():
        raise EngineFault(
            "this PyTorch sees no card: it was installed for the processor alone, or the driver does not work "
            "(pytorch.org/get-started names the package for CUDA and for ROCm)"
        )
    if torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(0)
        architectures = torch.cuda.get_arch_list()
        # Code for SM86 is found under SM80 as well: kernels run on any later card of the same major number.
        compiled = [int(found[1]) for name in architectures if (found := re.match(r"sm_(\d+)", name))]
        if not any(10 * major <= one <= 10 * major + minor for one in compiled):
            raise EngineFault(
                f"this PyTorch has kernels for {', '.join(architectures)} and none for SM{major}{minor}; "
                "an older PyTorch may have them"
            )
    return "cuda"
