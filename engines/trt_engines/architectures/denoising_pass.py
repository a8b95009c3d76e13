"""One trip through a denoiser's schedule."""

from __future__ import annotations

from dataclasses import dataclass

from trt_engines.architectures.guidance import Guidance
from trt_engines.architectures.latent_format import LatentFormat
from trt_engines.architectures.noise_levels import NoiseLevels


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One trip through a denoiser's schedule, from noise to a finished latent."""

    denoiser: str  # name of the network
    latent: LatentFormat
    levels: NoiseLevels
    guidance: Guidance
    share: float = 1.0  # of a job's steps, rounded to whole ones
