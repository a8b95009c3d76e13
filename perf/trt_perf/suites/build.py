"""From checkpoints to engines: every architecture small, and two full-size denoisers, on this machine's processor.

Takes about half an hour on two cores, 18 GB of free memory and 13 GB of free disk where temporary files go (TMPDIR).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from trt_engines.builders.comparison import same_engine
from trt_perf import full_size, small_networks
from trt_perf.progress import Progress


def measure() -> dict[str, float]:
    """All figures of the suite."""
    progress = Progress()
    figures = small_networks.measure(progress)
    with tempfile.TemporaryDirectory(prefix="trt-worker-bench-") as folder:
        graphs = Path(folder, "graphs")
        graphs.mkdir()
        for subject in (full_size.SD15, full_size.SDXL):  # alone, for their seconds
            figures |= full_size.export_unet(subject, graphs, progress)
        figures |= full_size.export_all(graphs, progress)
        figures |= sd15(graphs, Path(folder), progress)
        figures |= sdxl(graphs, Path(folder), progress)
    return figures


def sd15(graphs: Path, folder: Path, progress: Progress) -> dict[str, float]:
    """Compile the denoiser of Stable Diffusion 1.5 twice: what it takes, and whether the engines are the same."""
    with full_size.random_checkpoint(full_size.SD15, folder, 2, progress) as checkpoint:
        one, other = checkpoint.with_name("one.plan"), checkpoint.with_name("other.plan")
        figures = full_size.build_unet(full_size.SD15, graphs, checkpoint, one, progress)
        full_size.build_unet(full_size.SD15, graphs, checkpoint, other, progress)
        return figures | {"same_request_same_engine": float(same_engine(one, other))}


def sdxl(graphs: Path, folder: Path, progress: Progress) -> dict[str, float]:
    """Bind SDXL to a checkpoint, and compile its denoiser."""
    with full_size.random_checkpoint(full_size.SDXL, folder, 1, progress) as checkpoint:
        figures = full_size.next_checkpoint(full_size.SDXL, graphs, checkpoint, progress)
        plan = checkpoint.with_name("engine.plan")
        return figures | full_size.build_unet(full_size.SDXL, graphs, checkpoint, plan, progress)
