"""Turn a training state into the model that ships: fp16 weights, and graphs that point into them.

    python -m trt_export.shapes_tiny.export --state DIR [--out engines/trt_engines/models/shapes-tiny]
    python -m trt_export.shapes_tiny.export --graphs [--out engines/trt_engines/models/shapes-tiny]

The second form makes the graphs of a finished model anew and leaves its weights as they are.

A graph's weights are external data inside the very safetensors file that diffusers reads: the same bytes, an offset and
a length. They are half precision; a Cast behind each makes the graph compute in float32, and ONNX Runtime folds it away
when it loads the graph.
"""

from __future__ import annotations

import argparse
import json
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from diffusers import EulerDiscreteScheduler
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.stable_diffusion import UNetDenoiser
from trt_engines.weights import sha256_of
from trt_export.shapes_tiny.networks import load_model
from trt_export.shapes_tiny.train.decoder import refined_vae
from trt_export.shapes_tiny.train.denoiser import trained_model
from trt_export.shapes_tiny.train.state import report
from trt_export.shapes_tiny.train.vae import trained_vae
from trt_export.shapes_tiny.vocabulary import FOLDER

LARGE_VALUES = 256
"""Initializers of more values than this live in the safetensors file, smaller ones in the graph."""


class TextEncoder(LibraryModule):
    """input_ids [rows, 77] -> context [layers, rows, 77, width]; entry k - 1 is what a clip skip of k asks for."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.norm = next(part for name, part in model.named_modules() if name.endswith("final_layer_norm"))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, output_hidden_states=True).hidden_states
        return torch.stack([self.norm(state) for state in reversed(hidden[1:])])


class Decoder(LibraryModule):
    """latent [rows, 4, h, w] in the denoiser's units -> pixels [rows, 3, 8h, 8w] in -1..1."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.model.decode(latent / self.model.config.scaling_factor, return_dict=False)[0]
        return pixels


class Encoder(LibraryModule):
    """pixels [rows, 3, h, w] in -1..1 -> latent [rows, 4, h/8, w/8] in the denoiser's units: the posterior's mode."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self.model.encode(pixels).latent_dist.mode() * self.model.config.scaling_factor
        return latent


LEAST_SIDE = 16
"""Smallest side of a latent that the denoiser is traced at, see `graphs.exporter`; its graph holds for smaller ones."""


def write_model(state: Path, out: Path) -> None:
    """Write weights, graphs and descriptions of the model in `state` to `out`."""
    vae = trained_vae(state)
    both = trained_model(state, vae)
    vae = refined_vae(state, vae)
    text, unet = both["text"], both["unet"]
    for model, folder in ((text, "text_encoder"), (unet, "unet"), (vae, "vae")):
        model.half().save_pretrained(out / folder)
        model.float().eval()  # the values of half precision, computed with in single
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    ).save_pretrained(out / "scheduler")
    write_graphs(both, vae, out)
    _describe(out)


def write_graphs(model: nn.ModuleDict, vae: Any, out: Path) -> None:
    """Write the graphs of a model whose weights are in `out`.

    Args: model, vae: as `networks.load_model` gives them; their values are those of the files.
    """
    rows, h, w, tokens = (torch.export.Dim(name) for name in ("rows", "height", "width", "tokens"))
    any_height, any_width = (torch.export.Dim(name, min=LEAST_SIDE) for name in ("any_height", "any_width"))
    context = torch.zeros(2, 154, 64)
    latent = torch.zeros(2, 4, 16, 24)
    _export(
        TextEncoder(model["text"]),
        (torch.zeros(2, 77, dtype=torch.long),),
        ["input_ids"],
        "context",
        [{0: rows}],
        out / "text_encoder.onnx",
        out / "text_encoder" / "model.safetensors",
        "model.",
    )
    _export(
        UNetDenoiser(model["unet"]),
        (latent, torch.zeros(2), context),
        ["sample", "timestep", "context"],
        "noise_pred",
        [{0: rows, 2: any_height, 3: any_width}, {0: rows}, {0: rows, 1: tokens}],
        out / "unet.onnx",
        out / "unet" / "diffusion_pytorch_model.safetensors",
        "model.",
    )
    _export(
        Decoder(vae),
        (latent,),
        ["latent"],
        "pixels",
        [{0: rows, 2: h, 3: w}],
        out / "vae_decoder.onnx",
        out / "vae" / "diffusion_pytorch_model.safetensors",
        "model.",
    )
    _export(
        Encoder(vae),
        (torch.zeros(2, 3, 128, 192),),
        ["pixels"],
        "latent",
        [{0: rows, 2: 8 * torch.export.Dim("height8"), 3: 8 * torch.export.Dim("width8")}],
        out / "vae_encoder.onnx",
        out / "vae" / "diffusion_pytorch_model.safetensors",
        "model.",
    )


def _export(
    model: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    output: str,
    axes: Sequence[Mapping[int, Any]],
    graph: Path,
    weights: Path,
    prefix: str,
) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            model.eval(),
            arguments,
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(dict(axis) for axis in axes),
            opset_version=20,
            verbose=False,
        )
    assert program is not None  # only with a file argument does the exporter return nothing
    program.optimize()
    with tempfile.TemporaryDirectory() as scratch:
        program.save(str(Path(scratch) / "graph.onnx"))
        proto = onnx.load(str(Path(scratch) / "graph.onnx"))
    external = _bind(proto, weights, weights.relative_to(graph.parent), prefix)
    _forget_origin(proto)
    onnx.save(proto, str(graph))
    report(
        f"{graph.name}: {graph.stat().st_size / 1024:.0f} kB, {len(proto.graph.node)} nodes, {external} tensors bound"
    )


def _bind(proto: onnx.ModelProto, weights: Path, location: Path, prefix: str) -> int:
    """Replace large initializers by references into the safetensors file; returns how many."""
    data = weights.read_bytes()
    (header_size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_size])
    base = 8 + header_size
    stored = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(data[base + begin : base + end], np.float16).reshape(entry["shape"])
            stored[name] = (values, base + begin, end - begin)
    by_value = {values.tobytes(): name for name, (values, _, _) in stored.items()}
    bound = 0
    for tensor in list(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= LARGE_VALUES:
            continue
        values = numpy_helper.to_array(tensor)
        transposed = False
        name = by_value.get(values.astype(np.float16).tobytes())
        if name is None and values.ndim == 2:
            name, transposed = by_value.get(np.ascontiguousarray(values.T).astype(np.float16).tobytes()), True
        if name is None:
            continue  # folded by the exporter: it stays in the graph
        stored_values, offset, length = stored[name]
        shape = stored_values.shape if transposed else tuple(tensor.dims)
        half = TensorProto(name=f"{name}.half", data_type=TensorProto.FLOAT16, dims=shape)
        half.data_location = TensorProto.EXTERNAL
        for key, value in (("location", str(location)), ("offset", str(offset)), ("length", str(length))):
            half.external_data.add(key=key, value=value)
        original = tensor.name
        proto.graph.initializer.remove(tensor)
        if not any(existing.name == half.name for existing in proto.graph.initializer):
            proto.graph.initializer.append(half)
        cast = f"{original}.float" if transposed else original
        nodes = [helper.make_node("Cast", [half.name], [cast], to=TensorProto.FLOAT)]
        if transposed:
            nodes.append(helper.make_node("Transpose", [cast], [original], perm=[1, 0]))
        for node in reversed(nodes):
            proto.graph.node.insert(0, node)
        bound += 1
    del proto.graph.value_info[:]
    return bound


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces that name the machine and outweigh the graph."""
    graph = proto.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (proto, graph, *graph.node, *values, *proto.functions):
        del part.metadata_props[:]


def _describe(out: Path) -> None:
    components = {
        "text_encoder": ("text_encoder.onnx", "text_encoder/model.safetensors"),
        "denoiser": ("unet.onnx", "unet/diffusion_pytorch_model.safetensors"),
        "vae_decoder": ("vae_decoder.onnx", "vae/diffusion_pytorch_model.safetensors"),
        "vae_encoder": ("vae_encoder.onnx", "vae/diffusion_pytorch_model.safetensors"),
    }
    description = {
        "name": "shapes-tiny",
        "architecture": "stable_diffusion_1",
        "prediction": "epsilon",
        "latent_channels": 4,
        "latent_scale": 8,
        "context_width": 64,
        "native_width": 128,
        "native_height": 128,
        "files": {"checkpoint": "shapes-tiny.safetensors"},
        "components": {name: {"graph": graph, "weights": weights} for name, (graph, weights) in components.items()},
        "tokenizer": {"vocab": "tokenizer/vocab.json", "merges": "tokenizer/merges.txt"},
        "digests": {path: sha256_of(out / path) for path in sorted({weights for _, weights in components.values()})},
    }
    (out / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    tokenizer = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (out / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")


def main() -> None:
    """Export the state folder's model, or the graphs of a finished one."""
    parser = argparse.ArgumentParser(description="Write shapes-tiny from a training state, or its graphs anew.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--state", type=Path, help="folder of a training run")
    source.add_argument("--graphs", action="store_true", help="only the graphs, of the weights that lie in --out")
    parser.add_argument("--out", type=Path, default=FOLDER.parent)
    options = parser.parse_args()
    if options.graphs:
        write_graphs(*load_model(options.out), options.out)
    else:
        write_model(options.state, options.out)


if __name__ == "__main__":
    main()
