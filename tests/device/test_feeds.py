"""What denoisers are given at every step: that something fills each of their inputs, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.feed import Feed
from trt_engines.architectures.registry import ARCHITECTURES, architecture
from trt_engines.architectures.served import why_unserved
from trt_worker.device.feeds import Inputs, constant_inputs, feeds_of
from trt_worker.errors import UnservableJob

SERVED = [known for known in ARCHITECTURES if not why_unserved(known)]


def fed(known: Architecture, job: Any, given: Inputs | None = None) -> Inputs:
    denoising = known.passes[0]
    ports = known.network(denoising.denoiser).ports
    text = {name: np.zeros((77, 8), np.float32) for name in known.prompting.filled}
    return feeds_of(job, ports, denoising, text, given or {})


def test_the_six_of_the_stable_diffusion_family_are_served() -> None:
    assert {known.name for known in SERVED} == {
        "stable_diffusion_1",
        "stable_diffusion_1_inpainting",
        "stable_diffusion_2",
        "stable_diffusion_2_v",
        "stable_diffusion_2_inpainting",
        "sdxl",
    }


@pytest.mark.parametrize("known", ARCHITECTURES, ids=lambda known: known.name)
def test_every_input_of_every_denoiser_has_a_feed(known: Architecture) -> None:
    for network in known.denoisers:
        assert all(tensor.feed is not None for tensor in network.inputs)
        assert {tensor.name for tensor in network.inputs if tensor.feed is Feed.TEXT} <= known.prompting.filled


@pytest.mark.parametrize("known", SERVED, ids=lambda known: known.name)
def test_something_fills_every_input_of_a_served_denoiser_in_its_shape(
    known: Architecture, a_run: Callable[..., Any]
) -> None:
    job = a_run(width=64, height=128).job

    inputs = fed(known, job)

    ports = known.network(known.passes[0].denoiser).ports
    assert set(inputs) == {tensor.name for tensor in constant_inputs(ports)}
    for tensor in constant_inputs(ports):
        if tensor.feed is not Feed.TEXT:
            assert inputs[tensor.name].ndim == len(tensor.shape) - 1


def test_sdxl_is_told_the_size_of_the_picture_uncropped(a_run: Callable[..., Any]) -> None:
    inputs = fed(architecture("sdxl"), a_run(width=64, height=128).job)

    assert inputs["time_ids"].tolist() == [128, 64, 0, 0, 128, 64]


def test_an_inpainting_model_without_a_mask_paints_everything_over_a_blank(a_run: Callable[..., Any]) -> None:
    inputs = fed(architecture("stable_diffusion_1_inpainting"), a_run(width=64, height=128).job)

    assert inputs["mask"].shape == (1, 16, 8)
    assert (inputs["mask"] == 1).all()
    assert inputs["masked_latent"][:, 3, 5].tolist() == pytest.approx([0.8223, -0.6876, 0.6364, 0.1380])


def test_what_a_job_brings_takes_the_place_of_the_default(a_run: Callable[..., Any]) -> None:
    mask = np.zeros((1, 8, 8), np.float32)

    inputs = fed(architecture("stable_diffusion_1_inpainting"), a_run().job, {"mask": mask})

    assert inputs["mask"] is mask


def test_a_denoiser_that_wants_the_pass_before_is_refused_by_name(a_run: Callable[..., Any]) -> None:
    cascade = architecture("stable_cascade")
    second = cascade.passes[1]
    ports = cascade.network(second.denoiser).ports

    with pytest.raises(UnservableJob, match="effnet"):
        feeds_of(a_run().job, ports, second, {})
