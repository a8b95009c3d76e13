"""A popped job in the worker's own terms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trt_engines.model import Model
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.horde.messages import PoppedJob, read_pop
from trt_worker.intake.horde.translate import expires, to_job, with_source
from trt_worker.job import MAX_PROMPT_CHARACTERS, ImageFormat, ImageSeed, JobSpec, SourceFit

Translate = Callable[..., JobSpec]


@pytest.fixture
def popped(a_pop: Callable[..., dict[str, Any]]) -> Callable[..., tuple[PoppedJob, tuple[str, ...]]]:
    def make(**fields: Any) -> tuple[PoppedJob, tuple[str, ...]]:
        answer = read_pop(json.dumps(a_pop(**fields)).encode())
        assert answer.job is not None, answer.problem
        return answer.job, answer.ids

    return make


@pytest.fixture
def translate(popped: Callable[..., tuple[PoppedJob, tuple[str, ...]]], a_model: Callable[..., Model]) -> Translate:
    def make(models: Mapping[str, Model] | None = None, **fields: Any) -> JobSpec:
        job, ids = popped(**fields)
        served = {"stable_diffusion": a_model()} if models is None else models
        return to_job(job, ids, served, received=101.0, asked=100.0, due_margin=10.0)

    return make


def test_a_plain_job_is_carried_over_field_by_field(translate: Translate) -> None:
    assert translate() == JobSpec(
        id="job-0",
        model="stable_diffusion",
        prompt="a lighthouse",
        negative_prompt="",
        width=512,
        height=512,
        steps=20,
        guidance=7.5,
        sampler="euler",
        scheduler="karras",
        seeds=(ImageSeed(value=457820011),),
        format=ImageFormat.WEBP,
        received=101.0,
        due=240.0,
    )


def test_the_model_is_found_in_any_case_and_keeps_our_spelling(
    translate: Translate, a_model: Callable[..., Model]
) -> None:
    assert translate({"SDXL 1.0": a_model("SDXL 1.0")}, model="sdxl 1.0").model == "SDXL 1.0"


@pytest.mark.parametrize("model", ["another", None])
def test_a_model_that_is_not_served_is_refused_by_name(translate: Translate, model: str | None) -> None:
    with pytest.raises(UnservableJob, match=rf"{model}.*served are stable_diffusion"):
        translate(model=model)


@pytest.mark.parametrize(
    ("prompt", "positive", "negative"),
    [
        ("cat ### dog", "cat", "dog"),
        ("cat###dog###bird", "cat", "dog###bird"),
        ("cat", "cat", ""),
        ("### dog", "", "dog"),
        ("{red|blue} <lora:x:1> (cat:1.2)\n🐈", "{red|blue} <lora:x:1> (cat:1.2)\n🐈", ""),
    ],
)
def test_the_prompt_is_split_once(translate: Translate, prompt: str, positive: str, negative: str) -> None:
    job = translate(payload={"prompt": prompt})

    assert (job.prompt, job.negative_prompt) == (positive, negative)


def test_prompts_without_end_are_cut(translate: Translate) -> None:
    job = translate(payload={"prompt": "a" * 9000 + "###" + "b" * 9000})

    assert (len(job.prompt), len(job.negative_prompt)) == (MAX_PROMPT_CHARACTERS, MAX_PROMPT_CHARACTERS)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("k_euler_a", "euler_ancestral"),
        ("k_dpm_2_a", "dpm_2_ancestral"),
        ("k_dpmpp_sde", "dpmpp_sde"),
        ("dpmsolver", "dpmpp_2m"),
        ("DDIM", "ddim"),
        ("lcm", "lcm"),
    ],
)
def test_samplers_of_every_spelling_are_known(translate: Translate, name: str, sampler: str) -> None:
    assert translate(payload={"sampler_name": name}).sampler == sampler


def test_an_unknown_sampler_is_refused(translate: Translate) -> None:
    with pytest.raises(UnservableJob, match="k_tomorrow"):
        translate(payload={"sampler_name": "k_tomorrow"})


def test_karras_false_is_the_models_own_schedule(translate: Translate) -> None:
    assert translate(payload={"karras": False}).scheduler == "normal"


def test_guidance_of_nothing_is_guidance_of_one(translate: Translate) -> None:
    assert translate(payload={"cfg_scale": 0}).guidance == 1.0


def test_absent_and_null_fields_are_the_servers_defaults(translate: Translate) -> None:
    nulls = dict.fromkeys(("ddim_steps", "cfg_scale", "sampler_name", "width", "height", "clip_skip"))

    job = translate(payload=nulls)

    assert (job.steps, job.guidance, job.sampler, job.width, job.height, job.clip_skip) == (
        30,
        7.5,
        "euler_ancestral",
        512,
        512,
        1,
    )


def test_sizes_are_rounded_up_to_sixty_four(translate: Translate) -> None:
    job = translate(payload={"width": 513, "height": 640})

    assert (job.width, job.height) == (576, 640)


@pytest.mark.parametrize(("asked", "layer"), [(None, 1), (1, 1), (2, 2)])
def test_clip_layers_count_from_the_last_whatever_the_models_family_does(
    translate: Translate, a_model: Callable[..., Model], asked: int | None, layer: int
) -> None:
    models = {"stable_diffusion": a_model(architecture="sdxl")}

    assert translate(models, payload={"clip_skip": asked}).clip_skip == layer


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 3073), ("height", 0), ("ddim_steps", 0), ("ddim_steps", 501), ("cfg_scale", -1), ("clip_skip", 13)],
)
def test_values_out_of_range_are_named(translate: Translate, field: str, value: int) -> None:
    with pytest.raises(BadJob, match=f"{field} is {value}"):
        translate(payload={field: value})


def test_images_of_one_batch_share_a_seed_and_differ_in_the_draw(translate: Translate) -> None:
    job = translate(ids=("a", "b", "c"), payload={"seed": "7", "n_iter": 3})

    assert job.id == "a"
    assert job.seeds == (ImageSeed(value=7), ImageSeed(value=7, draw=1), ImageSeed(value=7, draw=2))


def test_the_list_of_ids_counts_the_images_and_not_n_iter(translate: Translate) -> None:
    assert len(translate(ids=("a", "b"), payload={"n_iter": 9}).seeds) == 2


def test_a_list_of_equal_seeds_is_one_shared_seed(translate: Translate) -> None:
    job = translate(ids=("a", "b"), payload={"seed": "7", "seeds": [7, 7]})

    assert job.seeds == (ImageSeed(value=7), ImageSeed(value=7, draw=1))


def test_a_list_of_different_seeds_gives_every_image_its_own(translate: Translate) -> None:
    job = translate(ids=("a", "b"), payload={"seed": "1040", "seeds": [1040, 1030]})

    assert job.seeds == (ImageSeed(value=1040), ImageSeed(value=1030))


def test_equal_seeds_among_different_ones_still_make_different_images(translate: Translate) -> None:
    job = translate(ids=("a", "b", "c"), payload={"seed": "5", "seeds": [5, 6, 5]})

    assert job.seeds == (ImageSeed(value=5), ImageSeed(value=6), ImageSeed(value=5, draw=1))


@pytest.mark.parametrize("seed", ["a word", "", None])
def test_a_seed_that_is_no_number_is_one_all_the_same_each_time(translate: Translate, seed: str | None) -> None:
    first, again = translate(payload={"seed": seed}), translate(payload={"seed": seed})

    assert first.seeds == again.seeds
    assert 0 <= first.seeds[0].value < 2**32


def test_a_seed_that_the_server_could_not_take_back_is_folded(translate: Translate) -> None:
    assert translate(payload={"seed": str(2**63 + 5)}).seeds[0].value == 5


def test_the_job_is_due_before_its_time_is_over_counted_from_the_pop(
    translate: Translate, popped: Callable[..., tuple[PoppedJob, tuple[str, ...]]]
) -> None:
    assert translate(ttl=600).due == 100.0 + 590.0
    assert translate(ttl=None).due == 100.0 + 140.0
    assert translate(ttl=6).due == 100.0 + 3.0
    assert expires(popped(ttl=600)[0], 100.0) == 700.0
    assert expires(None, 100.0) == 250.0


@pytest.mark.parametrize(
    ("fields", "feature"),
    [
        ({"payload": {"control_type": "canny"}}, "control_type 'canny'"),
        ({"payload": {"workflow": "qr_code"}}, "workflow 'qr_code'"),
        ({"payload": {"loras": [{"name": "1"}]}}, "loras"),
        ({"payload": {"tis": [{"name": "1"}]}}, "textual inversions"),
        ({"payload": {"post_processing": ["GFPGAN"]}}, "post_processing"),
        ({"payload": {"transparent": True}}, "transparent pictures"),
        ({"payload": {"tiling": True}}, "tiling"),
        ({"payload": {"hires_fix": True, "width": 1024}}, "hires_fix"),
        ({"source_image": "x", "source_processing": "inpainting"}, "inpainting"),
        ({"source_image": "x", "source_processing": "outpainting"}, "outpainting"),
        ({"source_image": "x", "source_processing": "remix"}, "remix"),
        ({"source_image": "x", "source_mask": "y"}, "a source mask"),
        ({"source_image": "x", "extra_source_images": [{"image": "y"}]}, "extra source images"),
        ({"source_processing": "txt2video"}, "a video"),
    ],
)
def test_a_feature_that_is_not_served_is_refused_by_name(
    translate: Translate, fields: dict[str, Any], feature: str
) -> None:
    with pytest.raises(UnservableJob, match=f"asks for {feature}, which"):
        translate(**fields)


def test_features_that_are_empty_or_off_ask_for_nothing(translate: Translate) -> None:
    off = {"loras": [], "tis": [], "post_processing": [], "hires_fix": False, "control_type": None, "workflow": None}

    assert translate(payload=off, extra_source_images=[], source_mask=None).steps == 20


def test_a_second_pass_at_the_models_own_size_is_none(translate: Translate) -> None:
    assert translate(payload={"hires_fix": True}).width == 512


@pytest.mark.parametrize("said", ["img2img", "inpainting", "txt2img", None])
def test_a_job_without_a_source_image_is_plain_whatever_it_says(translate: Translate, said: str | None) -> None:
    job = translate(source_processing=said, payload={"denoising_strength": 0.4})

    assert job.source is None
    assert job.strength == 1.0


@pytest.mark.parametrize("said", ["img2img", "txt2img", None])
def test_a_job_with_a_source_image_is_a_variation_whatever_it_says(
    translate: Translate, popped: Callable[..., tuple[PoppedJob, tuple[str, ...]]], said: str | None
) -> None:
    fields = {"source_image": "x", "source_processing": said, "payload": {"denoising_strength": 0.4}}

    job = with_source(translate(**fields), popped(**fields)[0], b"picture")

    assert (job.source, job.strength, job.source_fit) == (b"picture", 0.4, SourceFit.STRETCH)


def test_a_source_without_a_strength_is_drawn_over_whole(
    translate: Translate, popped: Callable[..., tuple[PoppedJob, tuple[str, ...]]]
) -> None:
    assert with_source(translate(source_image="x"), popped(source_image="x")[0], b"picture").strength == 1.0
