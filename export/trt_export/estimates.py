"""What building an engine takes, phase by phase, before it is tried: estimates from measured builds, on two cores.

Stable Diffusion 1.5 with one profile of each engine and the model that ships were built while other programs ran; the
constants are what is left of the measured processor time when a third of it, which sharing the cores costs, is taken
off, spread over the two cores where a phase keeps both busy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from trt_engines.architectures.network import Network
from trt_engines.builders.footprint import build_memory, build_seconds
from trt_export.checkpoints.binding import StoredWeights
from trt_export.samples import sample_flops

PHASES = ("export", "bind", "parse", "build", "certify")
"""Of one engine, in their order."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
"""Of one weight."""

FLOAT8 = "F8_E4M3"
"""Of stored weights, in safetensors' words."""

COMMAND_SECONDS = 10.0
"""Of `build` before its first engine: PyTorch and diffusers are imported, and all networks looked for in the files."""

START_SECONDS = 6.0
"""Of a process that imports PyTorch and diffusers."""

EXPORT_SECONDS = 0.08
"""Of tracing and folding a network, for each tensor of weights: it follows the layers and not their size. Between
0.04 (a text encoder) and 0.1 (a UNet)."""

ROOT_PER_TENSOR, MOST_TENSORS = 40.0, 1000
"""Where no file says how many tensors a network's weights are in: the square root of the weights over this many, which
is near for Stable Diffusion's networks, and not more than so many, for larger networks have larger layers."""

BYTES_PER_SECOND = 1e9
"""Weights that are hashed in a second."""

CERTIFY_SECONDS_PER_WEIGHT = 1.5e-8
"""Of reading and converting every weight: for each sample by PyTorch, and once by ONNX Runtime."""

FLOPS_PER_SECOND = 1e11
"""Of a sample, by PyTorch in float32 and then by ONNX Runtime in the graph's types: both together."""

LEAST_MEMORY = 1_100_000_000
"""Bytes that a certificate takes of any network: the libraries, and what the samples are computed in."""

CERTIFY_MEMORY = 2
"""Peak bytes for each stored byte of weights: their file is mapped, and ONNX Runtime has a copy.

Seen with Stable Diffusion 1.5 in float16: 4.0 GB for the UNet (1.72 GB of weights), 1.1 GB for the image decoder.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of one network."""

    count: int
    tensors: int  # that they are in
    stored_bytes: int  # as the checkpoint has them: what a build reads
    engine_bytes: int  # as an engine has them: what the plan file and the card hold


def weights_of(network: Network, precision: str, stored: StoredWeights | None = None) -> Weights:
    """The weights of a network whose engine computes in a type.

    An engine keeps float8 weights, and has all others in its own type, however they are stored.

    Args: stored: what a checkpoint has of it; None: as if everything were in the engine's type.
    """
    whole = network.parameters * BYTES[precision]
    if stored is None:
        tensors = min(MOST_TENSORS, int(network.parameters**0.5 / ROOT_PER_TENSOR))
        return Weights(count=network.parameters, tensors=tensors, stored_bytes=whole, engine_bytes=whole)
    spared = stored.sizes.get(FLOAT8, 0) * (BYTES[precision] - 1)
    return Weights(
        count=network.parameters,
        tensors=stored.tensors,
        stored_bytes=stored.size,
        engine_bytes=whole - spared,
    )


def seconds_of(network: Network, weights: Weights, profiles: int) -> Mapping[str, float]:
    """Seconds of each phase of a build from nothing; none without a profile."""
    if not profiles:
        return {}
    return {
        "export": START_SECONDS + EXPORT_SECONDS * weights.tensors,
        "bind": weights.stored_bytes / BYTES_PER_SECOND,
        "parse": 0.5,
        "build": build_seconds(weights.engine_bytes, profiles),
        "certify": START_SECONDS
        + CERTIFY_SECONDS_PER_WEIGHT * weights.count
        + sample_flops(network) / FLOPS_PER_SECOND,
    }


def memory_of(weights: Weights, profiles: int) -> int:
    """Most memory of any phase, bytes."""
    if not profiles:
        return 0
    compiling = build_memory(weights.stored_bytes, weights.engine_bytes, profiles)
    certifying = LEAST_MEMORY + CERTIFY_MEMORY * weights.stored_bytes
    return max(compiling, certifying)


def seconds_together(
    left: Mapping[int, float],
    waiting: Sequence[int],
    expected: Sequence[float],
    admit: Callable[[Sequence[int], Collection[int]], int | None],
) -> float:
    """Seconds until several builds are over.

    Args:
        left: seconds of those under way, by their numbers.
        waiting: those that have not begun.
        expected: seconds of each from its beginning.
        admit: which of the waiting starts beside those under way; None: none yet.
    """
    now, ends, ahead = 0.0, dict(left), list(waiting)
    while True:
        while (number := admit(ahead, ends)) is not None:
            ahead.remove(number)
            ends[number] = now + expected[number]
        if not ends:
            return now
        ended = min(ends, key=lambda one: ends[one])
        now = max(now, ends.pop(ended))


def first_of(jobs: int) -> Callable[[Sequence[int], Collection[int]], int | None]:
    """Lets in the first that waits, where fewer than `jobs` are under way."""
    return lambda waiting, running: waiting[0] if waiting and len(running) < jobs else None
