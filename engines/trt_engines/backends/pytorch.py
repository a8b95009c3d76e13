"""PyTorch through diffusers' own modules: on the CPU the fallback and the reference in tests, on a card the fallback.

Nothing here was run on a card: what only a card can prove is `_card`, and that the modules compute the same there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.backends.footprint import single_precision
from trt_engines.backends.host_source import memory_of, network_plan
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.devices.cpu import CpuDevice
from trt_engines.devices.device import HostComputingDevice
from trt_engines.devices.operations import Network
from trt_engines.errors import EngineFault, OutOfMemory
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.host import HostSession

_ARCHITECTURES = frozenset({"stable_diffusion_1"})


def pytorch_backend(threads: int = 0, *, gpu: bool = False) -> OnDeviceBackend:
    """The backend that runs a model's safetensors through the modules that define its architecture, in float32.

    Args:
        threads: threads of one call; 0 takes every core this process may use.
        gpu: compute on the first card that the process sees, NVIDIA's or AMD's (ROCm); tensors stay in host memory
            and are copied at each call.
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
        if spec.model.architecture not in _ARCHITECTURES:
            return f"no PyTorch modules for architecture {spec.model.architecture}"
        if spec.files is None:
            return f"{spec.model.name} has no weights of its {spec.network}"
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        return single_precision(spec)

    def engine_of(self, spec: EngineSpec) -> str:
        return spec.network

    def open(self, spec: EngineSpec) -> HostSession:
        import torch

        torch.set_num_threads(self._threads)
        device = _card() if self._gpu else "cpu"
        try:
            module = _module(spec, device)
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{spec.label} does not fit on the card: {error}") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineFault(f"PyTorch cannot load {spec.label}: {error}") from error
        return HostSession(self.device, network_plan(spec, _network(spec, module, device)))


def _module(spec: EngineSpec, device: str) -> Any:
    """The eager module that computes a component; encoder and decoder are halves of one VAE, and each loads its own."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    loader = {
        "text_encoder": CLIPTextModel,
        "denoiser": UNet2DConditionModel,
        "vae_decoder": AutoencoderKL,
        "vae_encoder": AutoencoderKL,
    }[spec.network]
    folder = spec.model.networks[spec.network].weights[0].parent
    module = loader.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    if spec.network == "vae_decoder":
        del module.encoder
    elif spec.network == "vae_encoder":
        del module.decoder
    return module.to(device, torch.float32).eval()


def _network(spec: EngineSpec, module: Any, device: str) -> Network:
    forward, label = _FORWARDS[spec.network], spec.label
    (output,) = spec.ports.outputs

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        try:
            with torch.inference_mode():
                arguments = {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
                return {output.name: forward(module, arguments).cpu().numpy()}
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfMemory(f"{label} does not fit on the card with this many rows: {error}") from error
        except RuntimeError as error:
            raise EngineFault(f"{label} failed in PyTorch: {error}") from error

    return run


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


def _encode_text(module: Any, inputs: dict[str, Any]) -> Any:
    import torch

    encoded = module(input_ids=inputs["input_ids"], output_hidden_states=True)
    norm = next(part for name, part in module.named_modules() if name.endswith("final_layer_norm"))
    return torch.stack([norm(hidden) for hidden in reversed(encoded.hidden_states[1:])])


def _denoise(module: Any, inputs: dict[str, Any]) -> Any:
    return module(inputs["sample"], inputs["timestep"], inputs["context"], return_dict=False)[0]


def _decode(module: Any, inputs: dict[str, Any]) -> Any:
    return module.decode(inputs["latent"] / module.config.scaling_factor, return_dict=False)[0]


def _encode_pixels(module: Any, inputs: dict[str, Any]) -> Any:
    return module.encode(inputs["pixels"]).latent_dist.mode() * module.config.scaling_factor


_FORWARDS = {
    "text_encoder": _encode_text,
    "denoiser": _denoise,
    "vae_decoder": _decode,
    "vae_encoder": _encode_pixels,
}
