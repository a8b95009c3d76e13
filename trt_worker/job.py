"""What one job asks for: past the wire, before any decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_PROMPT_CHARACTERS = 8_000
"""Longer prompts are cut: the grid cuts the copy inside its graphs at the same length."""


MAX_ID_CHARACTERS = 256
"""Both networks call jobs by UUIDs, of 36 characters. What is longer is no id, and would not fit into a frame."""


class ImageFormat(StrEnum):
    """How an image leaves the worker; the value is the file extension the grid uses."""

    WEBP = "webp"
    PNG = "png"
    JPEG = "jpg"

    @property
    def content_type(self) -> str:
        """The MIME type an upload slot expects."""
        return "image/jpeg" if self is ImageFormat.JPEG else f"image/{self.value}"


class SourceFit(StrEnum):
    """How a source image is brought to the size of the picture."""

    STRETCH = "stretch"
    """Scaled to the size, whatever becomes of its proportions."""

    COVER = "cover"
    """Scaled until it covers the size; what sticks out is cut off, evenly on both sides."""

    CUT = "cut"
    """Not scaled: its middle."""


class SamplerNode(StrEnum):
    """The ComfyUI node that samples a job: nodes differ in which of a scheduler's noise levels they run.

    Jobs without a graph are sampled as `KSampler` does it.
    """

    KSAMPLER = "KSampler"
    """All levels; below full strength the last ones. Some samplers run without the last level above 0."""

    KSAMPLER_ADVANCED = "KSamplerAdvanced"
    """The levels of `KSampler` without the first ones."""

    CUSTOM = "SamplerCustomAdvanced"
    """Always the last levels, as many as there are steps and one; no sampler leaves any out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSeed:
    """Where the initial noise of one image comes from.

    The grid gives every image a seed of its own (`draw` 0). A Horde batch shares one seed: image k is the k-th
    consecutive draw of that seed's generator, as the network's other workers do it.
    """

    value: int  # 0 <= value < 2**64
    draw: int = 0  # consecutive whole-latent draws to skip


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job in the worker's own terms; the transports translate into it and nothing past them knows which did."""

    id: str  # at most MAX_ID_CHARACTERS
    model: str  # our spelling, as in the model library
    prompt: str
    negative_prompt: str = ""
    width: int  # pixels, multiple of 8, 64..3072
    height: int
    steps: int  # 1..500
    guidance: float = 7.5  # 1.0 means no negative branch; 0 <= guidance <= 100
    sampler: str = "euler"  # canonical name, as in sampler_names
    scheduler: str = "normal"
    strength: float = 1.0  # 0 < strength <= 1; below 1 only with a source image
    sampler_node: SamplerNode = SamplerNode.KSAMPLER
    end_step: int | None = None  # of KSamplerAdvanced: levels behind this one of the whole schedule become one, 0
    clip_skip: int = 1  # 1 = last layer; the model's own where the network does not count from 1
    shift: float | None = None  # time shift of flow models when the job overrides the model's own
    seeds: tuple[ImageSeed, ...]  # one image each, at least one
    source: bytes | None = None  # encoded source image as fetched, already size-checked
    source_fit: SourceFit = SourceFit.STRETCH
    format: ImageFormat = ImageFormat.WEBP
    received: float  # time.monotonic() seconds at arrival
    due: float  # time.monotonic() seconds: the acknowledgement should have left by then

    @property
    def megapixel_steps(self) -> float:
        """Work of the whole job as the networks count it: W * H / 1e6 * steps * images."""
        return self.width * self.height / 1e6 * self.steps * len(self.seeds)
