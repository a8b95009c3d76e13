"""What the processes do not load."""

from __future__ import annotations

import subprocess
import sys

SUPERVISOR = """
import sys
import trt_worker.app
print(sorted({"torch", "onnxruntime", "diffusers", "transformers", "scipy"} & set(sys.modules)))
"""

DEVICE = """
import sys
from time import monotonic
from trt_engines.backends.ladder import make_backends
from trt_engines.model import find_models
from trt_engines.residency import Memory
from trt_worker.job import ImageSeed, JobSpec, SourceFit
from trt_worker import frames
from trt_worker.device import loop
made = []
backends = {backend.name: backend for backend in make_backends(("onnxruntime", "pytorch"), threads=1)}
budgets = dict.fromkeys(Memory, 2**31)
device = loop.DeviceLoop(find_models(), backends, max_rows=2, budgets=budgets, emit=lambda frame, _: made.append(frame))
device.take(frames.Run(backend="onnxruntime", job=JobSpec(id="job", model="shapes-tiny", prompt="a (red:1.2) circle",
    negative_prompt="", width=64, height=64, steps=2, guidance=4.0, sampler="dpmpp_sde", scheduler="karras",
    strength=1.0, clip_skip=1, source_fit=SourceFit.STRETCH, seeds=(ImageSeed(value=1),),
    received=monotonic(), due=monotonic() + 60)), b"")
while device.busy:
    device.step()
assert isinstance(made[-1], frames.Made), made[-1]
print(sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""


def printed_by(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_supervisor_loads_no_engine_library() -> None:
    assert printed_by(SUPERVISOR) == "[]"


def test_the_fast_path_makes_a_picture_without_pytorch() -> None:
    assert printed_by(DEVICE) == "[]"
