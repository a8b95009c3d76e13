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
from pathlib import Path

import msgspec
from diffusers import EulerDiscreteScheduler

from trt_engines.description import FILE, Description
from trt_engines.weights import sha256_of
from trt_export.adding.folder import SERVED_AS, write_network
from trt_export.building.located import Located
from trt_export.building.source import open_located
from trt_export.graphs.exporter import export_graph
from trt_export.shapes_tiny.train.decoder import refined_vae
from trt_export.shapes_tiny.train.denoiser import trained_model
from trt_export.shapes_tiny.train.state import report
from trt_export.shapes_tiny.train.vae import trained_vae
from trt_export.shapes_tiny.vocabulary import FOLDER

NAME, ARCHITECTURE = "shapes-tiny", "stable_diffusion_1"


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
    _describe(out)
    write_graphs(out)


def write_graphs(out: Path) -> None:
    """Write the graphs and bindings of a model whose weights are in `out`, as those of every model that is added."""
    source = open_located(Located(name=NAME, path=out, family=ARCHITECTURE))
    names = {file: str(file.relative_to(out)) for file in source.checkpoint.files}
    networks = {}
    for network, module in source.modules.items():
        graph = export_graph(module, SERVED_AS).SerializeToString()
        networks[network] = write_network(source, network, graph, out, names)
        report(f"{network}: {len(graph) / 1024:.0f} kB without its weights")
    description = Description(
        name=NAME,
        architecture=ARCHITECTURE,
        networks=networks,
        files={"checkpoint": f"{NAME}.safetensors"},
        native_width=128,
        native_height=128,
        digests={names[file]: sha256_of(file) for file in source.checkpoint.files},
    )
    (out / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n")


def _describe(out: Path) -> None:
    """What diffusers wants to be told of a folder."""
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
        write_graphs(options.out)
    else:
        write_model(options.state, options.out)


if __name__ == "__main__":
    main()
