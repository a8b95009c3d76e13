"""The jobs of a simulation: a seeded trace of Stable Diffusion 1.5 and SDXL."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trt_engines.costs.work import CLIP_L, OPEN_CLIP_BIGG, SDXL, STABLE_DIFFUSION_1, VAE_DECODER, NetworkWork
from trt_engines.profiles.defaults import default_histogram

JOBS = 500
SEED = 20_260_301

STEPS = {20: 0.35, 25: 0.20, 30: 0.35, 40: 0.10}
"""Assumption: steps of a job, with their shares. The networks' own defaults are 20 and 30."""

TOKENS = (77, 154, 231)
GUIDANCE_ROWS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """One model of the trace."""

    name: str
    architecture: str
    native_side: int  # pixels
    networks: Mapping[str, NetworkWork]  # by the architecture's names


FAMILIES = (
    Family(
        name="sd15",
        architecture="stable_diffusion_1",
        native_side=512,
        networks={"text_encoder": CLIP_L, "denoiser": STABLE_DIFFUSION_1, "vae_decoder": VAE_DECODER},
    ),
    Family(
        name="sdxl",
        architecture="sdxl",
        native_side=1024,
        networks={
            "text_encoder": CLIP_L,
            "text_encoder_2": OPEN_CLIP_BIGG,
            "denoiser": SDXL,
            "vae_decoder": VAE_DECODER,
        },
    ),
)
"""Half of the jobs each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of a trace, as far as time depends on it."""

    id: str
    family: Family
    arrived: float  # seconds
    width: int  # pixels
    height: int
    steps: int
    images: int
    tokens: int

    @property
    def megapixel_steps(self) -> float:
        """Work as the networks count it."""
        return self.width * self.height / 1e6 * self.steps * self.images


def trace(jobs: int = JOBS, seed: int = SEED) -> tuple[Job, ...]:
    """Jobs in order, all arriving at once.

    Sizes, images and text lengths are drawn from the default histogram of each family (`trt_engines.profiles`), which
    has guidance on for both; steps from `STEPS`.
    """
    draw = random.Random(seed)
    demands = {
        family.name: default_histogram(
            native_pixels=family.native_side**2, tokens=TOKENS, guidance_rows=GUIDANCE_ROWS
        ).demands
        for family in FAMILIES
    }
    weights = {name: [demand.weight for demand in chosen] for name, chosen in demands.items()}
    made = []
    for number in range(jobs):
        family = draw.choice(FAMILIES)
        (demand,) = draw.choices(demands[family.name], weights[family.name])
        (steps,) = draw.choices(list(STEPS), list(STEPS.values()))
        made.append(
            Job(
                id=f"{number:03}",
                family=family,
                arrived=0.0,
                width=demand.width,
                height=demand.height,
                steps=steps,
                images=demand.rows // GUIDANCE_ROWS,
                tokens=demand.tokens,
            )
        )
    return tuple(made)


def arriving(jobs: Sequence[Job], seconds_apart: float, seed: int = SEED) -> tuple[Job, ...]:
    """The same jobs as a Poisson process. Args: seconds_apart: on average."""
    draw, now, made = random.Random(seed + 1), 0.0, []
    for job in jobs:
        now += draw.expovariate(1 / seconds_apart)
        made.append(replace(job, arrived=now))
    return tuple(made)
