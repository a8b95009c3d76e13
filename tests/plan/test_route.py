"""Which backend runs a job, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from trt_engines.backend import Engine, EngineSpec
from trt_engines.errors import EngineRefused
from trt_engines.model import find_models
from trt_worker.job import ImageSeed, JobSpec
from trt_worker.plan.pace import Pace
from trt_worker.plan.route import Exclusion, route
from trt_worker.sampler_names import canonical_sampler


@dataclass(frozen=True)
class Picky:
    """A backend that refuses one network, and any with more rows than it takes."""

    name: str
    refused: str | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    def refuses(self, spec: EngineSpec) -> str | None:
        if spec.bucket.rows > self.rows.get(spec.network, 99):
            return f"takes {self.rows[spec.network]} rows"
        return f"cannot run the {spec.network}" if spec.network == self.refused else None

    def load(self, spec: EngineSpec) -> Engine:
        raise NotImplementedError


def a_job(**changes: object) -> JobSpec:
    settings: dict[str, object] = {
        "id": "job",
        "model": "shapes-tiny",
        "prompt": "",
        "width": 128,
        "height": 64,
        "steps": 4,
        "seeds": (ImageSeed(value=1),),
        "received": 0.0,
        "due": 100.0,
    }
    return JobSpec(**(settings | changes))  # type: ignore[arg-type]


MODEL = find_models()["shapes-tiny"]


def test_a_sampler_that_another_is_run_for_is_named_in_the_plan() -> None:
    plan = route(a_job(sampler=canonical_sampler("k_dpm_adaptive")), MODEL, [Picky("fast")], max_rows=4)

    assert plan.sampler == "dpmpp_2m"
    assert plan.stand_in.startswith("sampler dpm_adaptive is run as dpmpp_2m: ")
    assert not plan.fallback


def test_a_sampler_we_have_is_run_as_itself() -> None:
    plan = route(a_job(sampler=canonical_sampler("k_dpm_fast")), MODEL, [Picky("fast")], max_rows=4)

    assert (plan.sampler, plan.stand_in) == ("dpm_fast", "")


def test_the_first_backend_that_can_runs_the_job() -> None:
    plan = route(a_job(), MODEL, [Picky("fast"), Picky("slow")], max_rows=4)

    assert (plan.backend, plan.reason, plan.fallback) == ("fast", "first choice", False)
    assert plan.bucket.label == "128x64r8t77"


def test_a_backend_that_takes_fewer_images_at_a_time_is_no_worse_a_choice() -> None:
    rows = {"denoiser": 4, "text_encoder": 1, "vae_decoder": 1}

    assert route(a_job(), MODEL, [Picky("fast", rows=rows)], max_rows=4).reason == "first choice"
    with pytest.raises(EngineRefused, match="fast: takes 1 rows"):
        route(a_job(), MODEL, [Picky("fast", rows=rows | {"denoiser": 1})], max_rows=4)


def test_a_fallback_says_what_stood_before_it() -> None:
    plan = route(a_job(), MODEL, [Picky("fast", "vae_decoder"), Picky("slow")], max_rows=4)

    assert (plan.backend, plan.fallback) == ("slow", True)
    assert plan.reason == "fast: cannot run the vae_decoder"


def test_the_encoder_counts_only_for_a_job_with_a_source_image() -> None:
    ladder = [Picky("fast", "vae_encoder"), Picky("slow")]

    assert route(a_job(), MODEL, ladder, max_rows=4).backend == "fast"
    assert route(a_job(source=b"png"), MODEL, ladder, max_rows=4).backend == "slow"


def test_an_excluded_backend_is_passed_over_with_its_reason() -> None:
    excluded = [Exclusion(backend="fast", reason="gave a black picture")]

    assert route(a_job(), MODEL, [Picky("fast"), Picky("slow")], max_rows=4, excluded=excluded).reason == (
        "fast: gave a black picture"
    )


def test_when_nobody_can_every_reason_is_given() -> None:
    ladder = [Picky("fast", "denoiser"), Picky("slow", "text_encoder")]

    with pytest.raises(EngineRefused, match=r"fast: cannot run the denoiser; slow: cannot run the text_encoder"):
        route(a_job(), MODEL, ladder, max_rows=4)


def test_a_job_that_cannot_be_done_in_time_is_known_before_it_is_taken() -> None:
    pace = Pace().measured(megapixel_steps=10, device_seconds=20, overhead_seconds=1)

    assert pace.finish(now=100, ahead=5, own=5) == 100 + 20 + 1
    assert Pace().finish(now=100, ahead=5, own=5) == 100


def test_the_pace_follows_what_is_measured_and_forgets_slowly() -> None:
    pace = Pace().measured(10, 10, 0)
    for _ in range(40):
        pace = pace.measured(10, 30, 2)

    assert pace.seconds(1) == pytest.approx(3, abs=0.01)
    assert pace.overhead_seconds == pytest.approx(2, abs=0.01)


@dataclass(frozen=True)
class Narrow(Picky):
    """A backend whose autoencoders take no picture with a side of more than `most` pixels."""

    most: int = 512

    def refuses(self, spec: EngineSpec) -> str | None:
        autoencoder = spec.network in {"vae_decoder", "vae_encoder"}
        too_large = autoencoder and max(spec.bucket.width, spec.bucket.height) > self.most
        return f"{spec.bucket.label} is too large" if too_large else super().refuses(spec)


def test_a_picture_that_the_decoder_takes_in_tiles_only_is_taken() -> None:
    plan = route(a_job(width=1024, height=1024), MODEL, [Narrow("fast")], max_rows=4)

    assert plan.backend == "fast"
    assert not plan.fallback


def test_a_picture_that_the_decoder_takes_neither_whole_nor_in_tiles_is_refused_for_its_own_size() -> None:
    with pytest.raises(EngineRefused, match="fast: 1024x1024r1t77 is too large"):
        route(a_job(width=1024, height=1024), MODEL, [Narrow("fast", most=200)], max_rows=4)
