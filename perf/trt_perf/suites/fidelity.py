"""Whether models that are added draw what diffusers' modules draw, and how wrong a wrong picture looks.

Each of the six architectures of the Stable Diffusion family is made small and random, written as a diffusers folder,
added as an operator adds one, and draws: text to image and image to image, inpainting models with a whole and with half
a mask, in ONNX Runtime and in PyTorch. The same picture is drawn by diffusers' own modules in a plain loop.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from trt_engines.model import Model
from trt_export.adding.add import add_model
from trt_export.adding.wanted import Wanted
from trt_perf.fidelity.drawing import BLANK, HEIGHT, WIDTH, Picture, Wish, a_source, drawn, plain, psnr
from trt_perf.fidelity.random_models import ARCHITECTURES, RandomModel, a_random_model
from trt_perf.new_architecture import trial
from trt_perf.targets import TARGETS

BACKENDS = ("onnxruntime", "pytorch")


def measure() -> dict[str, float]:
    """All figures of the suite."""
    parity, control = dict[str, list[float]](), []
    with tempfile.TemporaryDirectory() as scratch:
        for architecture in ARCHITECTURES:
            made, model = _added(architecture, Path(scratch))
            for name, wish in _wishes(architecture):
                expected = plain(made, model, wish)
                for backend in BACKENDS:
                    likeness = psnr(expected, drawn(model, backend, wish))
                    parity.setdefault(architecture, []).append(likeness)
                    _tell(f"{architecture:<30} {name:<16} {backend:<12} {likeness:6.1f} dB")
                if name == "text to image":
                    control.append(_control(made, model, wish, expected))
                    _tell(f"{architecture:<30} best of wrong ones {control[-1]:16.1f} dB")
    _tell(f"an architecture in three files: {trial.draw()}")
    least = TARGETS["parity_min_psnr_db"]
    served = [architecture for architecture, found in parity.items() if least.reached(min(found))]
    return {
        "architecture_files": float(len(trial.new_files())),
        "architecture_files_changed": float(len(trial.changed_files())),
        "parity_min_psnr_db": min(map(min, parity.values())),
        "parity_control_db": max(control),
        "families_served": float(len(served)),
        "families_known": float(len(ARCHITECTURES)),
        "families_served_missing": float(len(ARCHITECTURES) - len(served)),
    }


def _added(architecture: str, scratch: Path) -> tuple[RandomModel, Model]:
    """A small random model, and what the worker makes of its folder."""
    made = a_random_model(architecture, scratch / architecture)
    added = add_model(
        Wanted(path=made.folder, family=architecture),
        models=scratch / "models",
        graphs=scratch / "graphs",
        tell=lambda step, share: None,
        stop=threading.Event(),
    )
    return made, added.model


def _wishes(architecture: str) -> Iterator[tuple[str, Wish]]:
    """Pictures to draw, by name."""
    plain_wish = Wish(layer=1 if architecture.startswith("stable_diffusion_1") else 2)
    if not architecture.endswith("inpainting"):
        yield "text to image", plain_wish
        yield "image to image", replace(plain_wish, source=a_source(), strength=0.6)
        return
    latent = (4, HEIGHT // 8, WIDTH // 8)
    blank = np.broadcast_to(np.array(BLANK, np.float32).reshape(4, 1, 1), latent).copy()
    whole = replace(plain_wish, mask=np.ones((1, *latent[1:]), np.float32), masked=blank)
    half = np.zeros((1, *latent[1:]), np.float32)
    half[:, :, : latent[2] // 2] = 1.0
    under = np.random.default_rng(5).standard_normal(latent, np.float32) * (1 - half)
    yield "text to image", whole
    yield "half a mask", replace(whole, mask=half, masked=under)
    yield "image to image", replace(whole, source=a_source(), strength=0.6)


def _control(made: RandomModel, model: Model, wish: Wish, expected: Picture) -> float:
    """How near the nearest wrong picture comes, in dB."""
    wrong = [replace(wish, prompt="a dog"), replace(wish, layer=3), replace(wish, seed=wish.seed + 1)]
    if made.architecture == "sdxl":
        wrong += [replace(wish, pooled_of="a dog"), replace(wish, sizes=(512, 512, 0, 0, 512, 512))]
    return max(psnr(expected, plain(made, model, one)) for one in wrong)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
