"""Job frames in the worker's own terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_engines.model import Model
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.grid import frames
from trt_worker.intake.grid.translate import Draft, to_draft, with_source
from trt_worker.job import MAX_PROMPT_CHARACTERS, ImageFormat, SourceFit

PLAIN: dict[str, Any] = {"prompt": "a cat", "n": 1, "width": 832, "height": 1216, "seed": 5}


def slots(count: int = 1, content_type: str = "image/webp") -> list[dict[str, str]]:
    return [
        {"put_url": f"https://store.example/{n}?X=1", "key": "k", "content_type": content_type} for n in range(count)
    ]


def a_job(payload: Any, upload: Any = None, **fields: Any) -> frames.Job:
    return frames.Job(
        **{"id": "j", "job_type": "image", "model": "shapes-tiny", "payload": payload, "upload": upload or slots()}
        | fields
    )


@pytest.fixture(scope="session", name="draft")
def draft_maker(a_model) -> Callable[..., Draft]:
    def make(frame: frames.Job, model: Model | None = None, **fields: Any) -> Draft:
        return to_draft(frame, model or a_model(), received=10.0, due=300.0, **fields)

    return make


def test_a_recipe_job_is_what_its_graph_says_not_the_guesses_beside_it(draft, a_graph) -> None:
    payload = {**PLAIN, "steps": 30, "cfg_scale": 7.5, "sampler_name": "k_heun", "recipe_spec": a_graph()}

    job = draft(a_job({**payload, "recipe_engine": "comfyui"})).job

    assert (job.steps, job.guidance, job.sampler, job.width, job.height) == (12, 4.0, "euler", 128, 192)
    assert (job.received, job.due, job.id) == (10.0, 300.0, "j")


def test_a_plain_job_is_what_its_parameters_say(draft) -> None:
    payload = {**PLAIN, "steps": 12, "cfg_scale": 4.5, "sampler_name": "k_dpmpp_2m"}

    job = draft(a_job({**payload, "recipe_inputs": {"scheduler": "karras"}, "ext": "png"}, slots(1, "image/png"))).job

    assert (job.steps, job.guidance, job.sampler, job.scheduler) == (12, 4.5, "dpmpp_2m", "karras")
    assert (job.width, job.height, job.format) == (832, 1216, ImageFormat.PNG)


def test_what_a_plain_job_leaves_out_is_what_the_coordinator_would_assume(draft) -> None:
    job = draft(a_job({**PLAIN, "steps": None, "cfg_scale": None, "sampler_name": None})).job

    assert (job.steps, job.guidance, job.sampler, job.scheduler) == (30, 7.5, "euler", "normal")


@pytest.mark.parametrize(("architecture", "layer"), [("stable_diffusion_1", 1), ("stable_diffusion_2", 2), ("sdxl", 2)])
def test_a_plain_job_takes_the_clip_layer_of_its_models_family(draft, a_model, architecture, layer) -> None:
    assert draft(a_job(PLAIN), a_model(architecture=architecture)).job.clip_skip == layer


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"seeds": [9, 9, 2**64 - 1]}, [9, 9, 2**64 - 1]),
        ({"seed": 2**53 - 1}, [2**53 - 1, 0, 1]),
        ({"seed": None, "graph": True}, [7, 8, 9]),
    ],
)
def test_every_image_has_a_seed_of_its_own(fields, seeds, draft, a_graph) -> None:
    payload = {**PLAIN, "n": 3, **fields}
    if payload.pop("graph", False):
        payload["recipe_spec"] = a_graph()

    job = draft(a_job(payload, slots(3))).job

    assert [seed.value for seed in job.seeds] == seeds
    assert {seed.draw for seed in job.seeds} == {0}


def test_a_long_prompt_is_cut(draft) -> None:
    assert len(draft(a_job({**PLAIN, "prompt": "x" * 9_000})).job.prompt) == MAX_PROMPT_CHARACTERS


def test_addresses_stay_out_of_what_is_shown(draft) -> None:
    assert "X=1" not in repr(draft(a_job(PLAIN)))


@pytest.mark.parametrize(
    ("payload", "upload"),
    [
        ({"n": 5}, slots(5)),
        ({"n": 2}, slots(1)),
        ({"n": True}, None),
        ({}, slots(1, "image/png")),
        ({}, [{"content_type": "image/webp"}]),
        ({}, "slots"),
        ({"width": 100}, None),
        ({"height": 4096}, None),
        ({"width": 56}, None),
        ({"seed": -1}, None),
        ({"seed": 2**64}, None),
        ({"seeds": [1, 2]}, None),
        ({"steps": 0}, None),
        ({"steps": 501}, None),
        ({"cfg_scale": float("inf")}, None),
        ({"prompt": None}, None),
        ({"prompt": 3}, None),
    ],
)
def test_a_value_out_of_the_protocol_is_a_bad_job(payload, upload, draft) -> None:
    with pytest.raises(BadJob) as told:
        draft(a_job({**PLAIN, **payload}, upload))

    assert not isinstance(told.value, UnservableJob)


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ({"loras": [{"name": "1"}]}, {}),
        ({"ext": "gif"}, {}),
        ({"sampler_name": "magic"}, {}),
        ({"source_image_url": "https://s/x"}, {}),
        ({}, {"job_type": "video"}),
        ({"recipe_engine": "other"}, {}),
    ],
)
def test_a_wish_that_is_not_served_is_said_so(payload, fields, draft) -> None:
    with pytest.raises(UnservableJob):
        draft(a_job({**PLAIN, **payload}, **fields))


def a_variation(graph: dict[str, Any]) -> dict[str, Any]:
    graph["30"] = {"class_type": "LoadImage", "inputs": {"image": "x"}}
    graph["31"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["30", 0], "vae": ["4", 2]}}
    graph["3"]["inputs"] |= {"latent_image": ["31", 0], "denoise": 0.7}
    return {**PLAIN, "recipe_spec": graph, "source_image_url": "https://s.example/x?key=1"}


def test_a_picture_without_a_size_takes_that_of_its_source(draft, a_graph) -> None:
    waiting = draft(a_job(a_variation(a_graph())))

    job = with_source(waiting, b"a picture", (131, 200))

    assert (job.width, job.height, job.strength) == (128, 200, 0.7)
    assert (job.source, job.source_fit) == (b"a picture", SourceFit.CUT)
    with pytest.raises(BadJob, match="32"):
        with_source(waiting, b"a picture", (32, 64))


def test_a_source_image_that_is_missing_or_switched_off_is_told_apart(draft, a_graph) -> None:
    payload = a_variation(a_graph())

    with pytest.raises(UnservableJob, match="allow_img2img"):
        draft(a_job(payload), allow_img2img=False)
    with pytest.raises(BadJob, match="says not where"):
        draft(a_job({**payload, "source_image_url": None}))


@given(
    fields=st.dictionaries(
        st.sampled_from(
            ["prompt", "n", "width", "height", "steps", "cfg_scale", "sampler_name", "ext", "seed", "seeds",
             "recipe_inputs", "loras", "recipe_engine", "recipe_spec", "source_image_url"]
        ),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.lists(st.integers())
        | st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    )
)  # fmt: skip
def test_any_payload_gives_a_job_or_a_clear_error(fields, draft) -> None:
    try:
        job = draft(a_job({**PLAIN, **fields})).job
    except BadJob:
        return  # any other error would show here
    assert all(0 <= seed.value < 2**64 for seed in job.seeds)
    assert job.width % 8 == job.height % 8 == 0
