"""A graph bound to a file in its published layout computes what PyTorch does with the library's own conversion."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file

from trt_engines.architectures.axis import Quantity
from trt_engines.architectures.registry import architecture
from trt_engines.modules.registry import module_of
from trt_export.checkpoints.binding import bind
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.maps.registry import key_maps
from trt_export.checkpoints.random_checkpoint import random_tensors, write_random
from trt_export.graphs.bound import bind_graph
from trt_export.graphs.exporter import export_graph, parameters
from trt_export.parity import inputs_of

KLEIN = architecture("flux2_klein_4b")
SIZES = {Quantity.ROWS: 2, Quantity.WIDTH: 128, Quantity.HEIGHT: 96, Quantity.TOKENS: 64}
PREFIX = "model.diffusion_model."
SCALE = ".scale_weight"


def test_klein_in_float8_with_fused_weights_and_swapped_halves_computes_what_the_librarys_conversion_does(
    tmp_path: Path,
) -> None:
    component, file = module_of(KLEIN.name, "denoiser").small, tmp_path / "model.safetensors"
    tensors = random_tensors(KLEIN, small=True)
    own = {name: one for name, one in tensors.items() if name.startswith(PREFIX)}
    write_random(file, own, seed=1, dtype="float8")
    inputs = inputs_of(component, SIZES)

    graph = export_graph(component, "float32")
    stored, side = open_checkpoint(file).of("denoiser"), tmp_path / "side.safetensors"
    bound = bind_graph(graph, bind(parameters(graph), stored, key_maps(KLEIN.name, "denoiser"), side))
    feeds = {tensor.name: value.numpy() for tensor, value in zip(component.inputs, inputs, strict=True)}
    result = _session(bound.proto, bound.files, tmp_path).run(None, feeds)[0]

    module = component.make(component.config).eval()
    module.model.load_state_dict(convert_flux2_transformer_checkpoint_to_diffusers(_dequantised(load_file(file))))
    with torch.inference_mode():
        expected = module(*inputs).numpy()
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()


def _session(graph: onnx.ModelProto, files: Mapping[str, Path], folder: Path) -> Any:
    for place, source in files.items():
        os.link(source, folder / place)  # ONNX Runtime follows no symbolic links
    onnx.save(graph, folder / "graph.onnx")
    return onnxruntime.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])


def _dequantised(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in float32, without prefix and scales."""
    found = {}
    for name, values in stored.items():
        if not name.endswith(SCALE):
            scale = stored.get(name.removesuffix(".weight") + SCALE, torch.ones(()))
            found[name.removeprefix(PREFIX)] = values.float() * scale
    return found
