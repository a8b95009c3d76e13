"""Make a checkpoint of the new architecture, add it, and draw with it. Run by `trial`, in an environment of its own."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

from trt_engines.architectures.registry import architecture
from trt_export.adding.add import add_model
from trt_export.adding.wanted import Wanted
from trt_export.checkpoints.random_checkpoint import random_tensors, write_random
from trt_perf.fidelity.drawing import Wish, a_source, drawn, psnr


def main(folder: Path) -> None:
    """Print what pictures say of each other, as JSON."""
    checkpoint = folder / "made-up.safetensors"
    write_random(checkpoint, random_tensors(architecture("made_up")), seed=1, dtype="float16")
    added = add_model(
        Wanted(path=checkpoint),  # recognised by its tensors: nobody says what it is
        models=folder / "models",
        graphs=folder / "graphs",
        tell=lambda step, share: None,
        stop=threading.Event(),
    )
    wish = Wish(negative="", steps=4)
    picture = drawn(added.model, "onnxruntime", wish)
    others = {
        "pytorch": drawn(added.model, "pytorch", wish),
        "prompt": drawn(added.model, "onnxruntime", replace(wish, prompt="a dog")),
        "guidance": drawn(added.model, "onnxruntime", replace(wish, guidance=9.0)),
        "source": drawn(added.model, "onnxruntime", replace(wish, source=a_source(), strength=0.5)),
    }
    sys.stdout.write(json.dumps({name: psnr(picture, other) for name, other in others.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
