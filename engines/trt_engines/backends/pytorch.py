"""PyTorch through the modules that are exported: the fallback, and on the processor the reference too.

Nothing here was run on a card: only a card can prove what `Card` says of it, and that modules compute the same there.
"""

from __future__ import annotations

import math
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
from trt_engines.architectures.tensor import Kind
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


class Card:
    """The first card that this process sees, NVIDIA's or AMD's (ROCm), as PyTorch has it."""

    def device(self) -> str:
        """PyTorch's name of it. Raises: EngineFault: this PyTorch cannot compute on it."""
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

    def computes_bfloat16(self) -> bool:
        """Whether it does, and not by software."""
        import torch

        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))


def pytorch_backend(threads: int = 0, *, gpu: bool = False) -> OnDeviceBackend:
    """The backend that runs a model's weights through the modules that define its architecture.

    Args:
        threads: threads of one call; 0 takes every core this process may use.
        gpu: compute on a card, in the checkpoint's own half precision; tensors stay in host memory and are copied at
            each call. Otherwise on the processor in float32.
    """
    source = PyTorchSource(CpuDevice(), threads, card=Card() if gpu else None)
    return OnDeviceBackend("pytorch-gpu" if gpu else "pytorch", source)


class PyTorchSource:
    """A model's modules, for every size. Args: see `pytorch_backend`."""

    def __init__(self, device: HostComputingDevice, threads: int = 0, *, card: Card | None = None) -> None:
        self.device = device
        self.memory = Memory.CARD if card is not None else memory_of(device)
        self._card = card
        self._threads = threads or len(os.sched_getaffinity(0))

    def refuses(self, spec: EngineSpec) -> str | None:
        for package in ("torch", "diffusers", "transformers"):
            if find_spec(package) is None:
                return f"{package} is not installed (pip install {package})"
        try:
            bound_network(spec)
        except (EngineRefused, ModelUnusable) as error:
            return str(error)
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        """Weights and activations in the type that is computed with, and the bound tensors.

        Activations are the architecture's, of its own size; what a smaller model holds of weights grows with the square
        of its width, and its activations with the width. On the processor PyTorch 2.13 took 1.0 to 1.3 times as much
        for SD 1.5's autoencoder, and 1.9 times for its denoiser at 512 x 512 (convolutions are unrolled there).
        """
        network, bound = spec.model.facts.network(spec.network), bound_network(spec)
        size = np.dtype(np.float32).itemsize if self._type(spec, bound) == "float32" else 2
        bucket, weights = spec.bucket, sum(math.prod(one.shape) for one in bound.tensors)
        row = network.cost.activation_bytes(width=bucket.width, height=bucket.height, tokens=bucket.tokens)
        width = min(1.0, math.sqrt(weights / network.parameters))
        return Footprint(
            weights=size * weights,
            activations=int(row * bucket.rows * width * size / 2),  # told at two bytes a value
            tensors=spec.interface.bytes,
        )

    def engine_of(self, spec: EngineSpec) -> str:
        return spec.network

    def open(self, spec: EngineSpec) -> HostSession:
        """Raises: EngineRefused, EngineFault, OutOfMemory."""
        import torch

        from trt_engines.module_loading import load_module

        torch.set_num_threads(self._threads)
        device = "cpu" if self._card is None else self._card.device()
        try:
            bound = bound_network(spec)
            module_spec = _module_of(spec, bound)
            dtype = getattr(torch, self._type(spec, bound))
            module = load_module(module_spec, bound, device, dtype)
            tensors = declared(module_spec.network.ports.at(spec.bucket))
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{spec.label} does not fit on the card: {error}") from error
        except (ModelUnusable, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise EngineFault(f"PyTorch cannot load {spec.label}: {error}") from error
        return HostSession(self.device, network_plan(spec, _network(spec, module_spec, module, device, dtype), tensors))

    def _type(self, spec: EngineSpec, bound: BoundNetwork) -> str:
        """The type that is computed with."""
        if self._card is None:
            return "float32"
        network = spec.model.facts.network(spec.network)
        return compute_type(network, bound.tensors, bfloat16=self._card.computes_bfloat16())


def bound_network(spec: EngineSpec) -> BoundNetwork:
    """Where the weights of a network lie. Raises: EngineRefused: the model does not say it. ModelUnusable."""
    if spec.files is None or spec.files.bindings is None:
        raise EngineRefused(
            f"{spec.model.name} does not say where the weights of its {spec.network} lie: it was added before PyTorch "
            "could use that; run `models add` again"
        )
    status = spec.files.bindings.stat() if spec.files.bindings.exists() else None
    version = None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns)
    return _read(spec.files.bindings, version)


@lru_cache(maxsize=32)  # asked for at every footprint; some thousand weights each
def _read(file: Path, _version: tuple[int, int, int] | None) -> BoundNetwork:
    """Bindings as they are in a version of their file: a model may be added anew while others are at work."""
    return read_bindings(file)


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


def _network(spec: EngineSpec, module_spec: ModuleSpec, module: Any, device: str, dtype: Any) -> Network:
    """The module as a network of host arrays: real inputs are brought to its type, real outputs to float32."""
    label, outputs = spec.label, [one.name for one in module_spec.outputs]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        def given(name: str, kind: Kind) -> Any:
            values = torch.from_numpy(np.ascontiguousarray(inputs[name]))
            return values.to(device, dtype if kind is Kind.REAL else None)

        try:
            with torch.inference_mode():
                made = module(*(given(one.name, one.kind) for one in module_spec.inputs))
                values = made if isinstance(made, tuple) else (made,)
                return {name: one.float().cpu().numpy() for name, one in zip(outputs, values, strict=True)}
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{label} does not fit on the card with this many rows: {error}") from error
        except RuntimeError as error:
            raise EngineFault(f"{label} failed in PyTorch: {error}") from error

    return run
