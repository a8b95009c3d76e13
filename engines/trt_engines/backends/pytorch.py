"""PyTorch on the CPU through diffusers' own modules: the fallback, and the reference in tests."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import numpy as np

from trt_engines.backend import EngineSpec
from trt_engines.errors import EngineFault
from trt_engines.interface import interface_of
from trt_engines.model import Component

_ARCHITECTURES = frozenset({"stable_diffusion_1"})


class PyTorchBackend:
    """Runs a model's safetensors through the modules that define its architecture, in float32.

    Args:
        threads: threads of one call; 0 takes every core this process may use.
    """

    name = "pytorch"

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._modules: dict[tuple[str, Component], Any] = {}

    def refuses(self, spec: EngineSpec) -> str | None:
        for package in ("torch", "diffusers", "transformers"):
            if find_spec(package) is None:
                return f"{package} is not installed (pip install {package})"
        if spec.model.architecture not in _ARCHITECTURES:
            return f"no PyTorch modules for architecture {spec.model.architecture}"
        if spec.component not in spec.model.weights:
            return f"{spec.model.name} has no {spec.component.value} weights"
        return None

    def load(self, spec: EngineSpec) -> PyTorchEngine:
        import torch

        torch.set_num_threads(self._threads)
        try:
            module = self._module(spec)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineFault(f"PyTorch cannot load {spec.label}: {error}") from error
        return PyTorchEngine(spec, module)

    def _module(self, spec: EngineSpec) -> Any:
        """The eager module that computes a component; encoder and decoder share one VAE."""
        kind = Component.VAE_DECODER if spec.component is Component.VAE_ENCODER else spec.component
        key = (spec.model.name, kind)
        if key not in self._modules:
            import torch
            from diffusers import AutoencoderKL, UNet2DConditionModel
            from transformers import CLIPTextModel

            loader = {
                Component.TEXT_ENCODER: CLIPTextModel,
                Component.DENOISER: UNet2DConditionModel,
                Component.VAE_DECODER: AutoencoderKL,
            }[kind]
            folder = spec.model.weights[spec.component].parent
            module = loader.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
            self._modules[key] = module.to(torch.float32).eval()
        return self._modules[key]


class PyTorchEngine:
    """A module behind NumPy tensors that share memory with PyTorch's."""

    def __init__(self, spec: EngineSpec, module: Any) -> None:
        import torch

        self.spec = spec
        self._module = module
        self._forward = _FORWARDS[spec.component]
        layers = module.config.num_hidden_layers if spec.component is Component.TEXT_ENCODER else 1
        interface = interface_of(spec, text_layers=layers)
        self.inputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface.inputs}
        self.outputs = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface.outputs}
        self._tensors = {name: torch.from_numpy(buffer) for name, buffer in self.inputs.items()}
        (self._output,) = interface.outputs

    def run(self, rows: int) -> None:
        import torch

        arguments = {name: tensor[:rows] for name, tensor in self._tensors.items()}
        try:
            with torch.inference_mode():
                result = self._forward(self._module, arguments)
        except RuntimeError as error:
            raise EngineFault(f"{self.spec.label} failed in PyTorch: {error}") from error
        target = self.outputs[self._output.name]
        selected = (slice(None),) * self._output.row_axis + (slice(rows),)
        target[selected] = result.numpy()

    def close(self) -> None:
        self._tensors.clear()


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
    Component.TEXT_ENCODER: _encode_text,
    Component.DENOISER: _denoise,
    Component.VAE_DECODER: _decode,
    Component.VAE_ENCODER: _encode_pixels,
}
