"""Make a checkpoint of the new architecture, add it, and draw with it. Run by `trial`, in an environment of its own."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

from trt_engines.architectures.registry import architecture
from trt_engines.model import Model
from trt_export.adding.add import add_model
from trt_export.adding.wanted import Wanted
from trt_export.checkpoints.random_checkpoint import random_tensors, write_random
from trt_perf.fidelity.drawing import Wish, a_source, drawn, psnr

TYPES = ("float16", "float32", "bfloat16", "float8")
"""What weights of checkpoints are of."""


def main(folder: Path) -> None:
    """Print what pictures say of each other, as JSON."""
    wish, likeness = Wish(negative="", steps=4), dict[str, float]()
    for dtype in TYPES:
        model = _added(folder, dtype)
        picture = drawn(model, "onnxruntime", wish)
        likeness[dtype] = psnr(picture, drawn(model, "pytorch", wish))
    wrong = {
        "prompt": replace(wish, prompt="a dog"),
        "guidance": replace(wish, guidance=9.0),
        "source": replace(wish, source=a_source(), strength=0.5),
    }
    for name, other in wrong.items():
        likeness[name] = psnr(picture, drawn(model, "onnxruntime", other))
    sys.stdout.write(json.dumps(likeness))


def _added(folder: Path, dtype: str) -> Model:
    """A model of weights of a type, added as an operator adds one: nobody says what it is."""
    checkpoint = folder / f"made-up-{dtype}.safetensors"
    write_random(checkpoint, random_tensors(architecture("made_up")), seed=1, dtype=dtype)
    added = add_model(
        Wanted(path=checkpoint),
        models=folder / "models",
        graphs=folder / "graphs",
        tell=lambda step, share: None,
        stop=threading.Event(),
    )
    return added.model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
