"""Reading answers: what is understood, and how trouble is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_engines.model import Model
from trt_worker.errors import BadJob, TransportError
from trt_worker.intake.horde.messages import pop_request, read_pop, read_reward, read_user
from trt_worker.intake.horde.settings import HordeSettings
from trt_worker.intake.horde.translate import to_job, with_source
from trt_worker.job import JobSpec

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
TOP = ("id", "ids", "payload", "model", "ttl", "skipped", "messages", "source_image", "source_mask", "r2_uploads")
INNER = ("prompt", "seed", "seeds", "width", "height", "ddim_steps", "cfg_scale", "sampler_name", "clip_skip", "karras")
ODD_NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "-1", "1e9", "0x10", " 7 "])

JOB: dict[str, Any] = {
    "id": "a",
    "ids": ["a", "b"],
    "model": "stable_diffusion",
    "ttl": 150,
    "payload": {"prompt": "a ### b", "seed": "1", "ddim_steps": 20, "width": 512, "height": 512, "karras": True},
    "denoising_strength": 0.5,
}


def answered(body: bytes, model: Model) -> JobSpec | str | None:
    """Everything that happens to a pop's answer before the GPU sees it: a job, none, or one of the errors promised."""
    try:
        return _answered(body, model)
    except (BadJob, TransportError) as error:
        return str(error)


def _answered(body: bytes, model: Model) -> JobSpec | None:
    popped = read_pop(body)
    if popped.job is None:
        assert bool(popped.ids) == bool(popped.problem)
        return None
    job = to_job(popped.job, popped.ids, {model.name: model}, received=0.0, asked=0.0, due_margin=10.0)
    job = with_source(job, popped.job, b"source")
    assert len(job.seeds) == len(popped.ids) >= 1
    assert all(0 <= seed.value < 2**63 for seed in job.seeds)
    assert job.width % 64 == job.height % 64 == 0
    assert 1 <= job.steps <= 500
    assert 0 < job.strength <= 1
    assert 0 < job.guidance <= 100
    assert job.due > 0
    return job


def clear(result: JobSpec | str | None) -> bool:
    """No error, or one that says something."""
    return not isinstance(result, str) or len(result) > 10


@given(ANY_JSON)
def test_any_json_is_an_answer_or_a_clear_error(a_model: Callable[..., Model], anything: object) -> None:
    assert clear(answered(json.dumps(anything).encode(), a_model()))


@given(st.dictionaries(st.sampled_from(TOP), ANY_JSON, max_size=3), st.dictionaries(st.sampled_from(INNER), ANY_JSON))
def test_a_job_with_wrong_fields_is_an_answer_or_a_clear_error(
    a_model: Callable[..., Model], top: dict[str, Any], inner: dict[str, Any]
) -> None:
    body = JOB | {"payload": JOB["payload"] | inner} | top
    assert clear(answered(json.dumps(body).encode(), a_model()))


@given(
    st.dictionaries(st.sampled_from(INNER), ODD_NUMBERS),
    st.lists(st.integers(), max_size=3),
    st.none() | st.floats(allow_nan=False),
)
def test_a_job_with_odd_numbers_is_in_range_or_a_clear_error(
    a_model: Callable[..., Model], inner: dict[str, Any], seeds: list[int], ttl: float | None
) -> None:
    inner = {"sampler_name": "k_euler", "prompt": "x"} | inner | {"seeds": seeds}
    body = JOB | {"ttl": ttl, "payload": JOB["payload"] | inner}
    assert clear(answered(json.dumps(body).encode(), a_model()))


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>", b"[" * 100_000, b'"text"', b"null", b'{"ids": 3}'])
def test_bytes_that_are_no_pop_answer_are_named_as_such(body: bytes) -> None:
    with pytest.raises(TransportError, match="answer of pop cannot be read"):
        read_pop(body)


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        (rb'{"payload": {"prompt": "\udc00 \ud83d\ude00"}, "id": "a", "ids": ["a", "b"]}', ("a", "b")),
        (rb'{"payload": {"prompt": "\ud83d"}, "id": "a"}', ("a",)),
        (b'{"ids": ["a", "b"], "payload": {"cfg_scale": NaN}}', ("a", "b")),
        (b'{"payload": ' + b"[" * 100_000 + b', "ids": ["a"]', ("a",)),
    ],
)
def test_a_job_in_an_answer_that_cannot_be_read_keeps_its_ids(body: bytes, ids: tuple[str, ...]) -> None:
    popped = read_pop(body)

    assert (popped.ids, popped.job) == (ids, None)
    assert "cannot be read" in popped.problem


def test_no_job_is_told_by_the_id_and_not_by_the_payload(no_job: dict[str, Any]) -> None:
    assert no_job["payload"]

    popped = read_pop(json.dumps(no_job).encode())

    assert (popped.ids, popped.job, popped.problem) == ((), None, "")


def test_an_answer_without_an_id_is_no_job_whatever_else_is_in_it(a_pop: Callable[..., dict[str, Any]]) -> None:
    assert read_pop(json.dumps(a_pop() | {"id": None}).encode()).ids == ()


def test_a_bad_field_is_named_with_its_place_and_the_ids_are_kept_to_hand_the_job_back(
    a_pop: Callable[..., dict[str, Any]],
) -> None:
    body = a_pop(ids=("a", "b"), payload={"width": "wide"})

    popped = read_pop(json.dumps(body).encode())

    assert popped.ids == ("a", "b")
    assert popped.job is None
    assert "$.payload.width" in popped.problem


def test_unknown_fields_and_values_do_not_make_a_job_unreadable(a_pop: Callable[..., dict[str, Any]]) -> None:
    body = a_pop(payload={"new_knob": {"a": 1}, "sampler_name": "k_tomorrow"}, source_processing="dream", more=[1])

    popped = read_pop(json.dumps(body).encode())

    assert popped.job is not None
    assert popped.job.payload.sampler_name == "k_tomorrow"
    assert popped.job.source_processing == "dream"


def test_statistics_and_messages_of_a_wrong_form_do_not_cost_the_job(a_pop: Callable[..., dict[str, Any]]) -> None:
    popped = read_pop(json.dumps(a_pop(skipped=[1], messages={"a": 1})).encode())

    assert popped.job is not None
    assert popped.skipped == {}
    assert popped.messages == ()


def test_a_job_without_a_list_of_ids_has_the_one_id(a_pop: Callable[..., dict[str, Any]]) -> None:
    assert read_pop(json.dumps(a_pop(ids=("a",)) | {"ids": []}).encode()).ids == ("a",)


def test_an_answer_without_a_reward_is_no_reward_of_zero() -> None:
    with pytest.raises(TransportError, match="submit"):
        read_reward(b"{}")


def test_a_pop_sends_every_field_and_promises_only_what_is_served(
    a_settings: Callable[..., HordeSettings],
) -> None:
    request = pop_request(a_settings(max_power=32), ["SDXL 1.0", "ab"], 4)
    sent = json.loads(msgspec.json.encode(request))

    assert sent == {
        "name": "worker-01",
        "models": ["SDXL 1.0"],  # shorter names than three characters would have the whole pop refused
        "bridge_agent": a_settings().bridge_agent,
        "amount": 4,
        "max_pixels": 32 * 8 * 64 * 64,
        "threads": 1,
        "nsfw": True,
        "blacklist": [],
        "priority_usernames": [],
        "require_upfront_kudos": False,
        "extra_slow_worker": False,
        "limit_max_steps": False,
        "allow_img2img": True,
        "allow_unsafe_ipaddr": True,
        "allow_painting": False,
        "allow_post_processing": False,
        "allow_controlnet": False,
        "allow_sdxl_controlnet": False,
        "allow_lora": False,
    }


def test_a_wallet_is_sent_only_when_there_is_one(a_settings: Callable[..., HordeSettings]) -> None:
    wallet = "0x" + "a" * 40
    request = pop_request(a_settings(wallet_address=wallet), ["model"], 1)

    assert json.loads(msgspec.json.encode(request))["wallet_address"] == wallet


def test_what_a_server_tells_its_workers_is_cut_and_escaped_where_it_is_read(
    a_pop: Callable[..., dict[str, Any]],
) -> None:
    hostile = "a\x1b[2J\nb" * 1000
    told = {"id": hostile, "message": hostile, "origin": hostile}
    popped = read_pop(
        json.dumps(a_pop(messages=[told] * 50, skipped={f"{n}{hostile[:500]}": 1 for n in range(100)})).encode()
    )

    assert len(popped.messages) == 16
    assert len(popped.skipped) == 32
    assert len(popped.messages[0].id) == 64
    for text in (popped.messages[0].message, popped.messages[0].origin or "", *popped.skipped):
        assert text.isprintable()
        assert len(text) <= 1000
    assert read_user(json.dumps({"username": hostile}).encode()).username.isprintable()


def test_more_images_than_a_pop_may_bring_are_no_job_and_so_many_are_handed_back(
    a_pop: Callable[..., dict[str, Any]],
) -> None:
    many = [f"{number:036d}" for number in range(100_000)]

    popped = read_pop(json.dumps(a_pop() | {"id": many[0], "ids": many}).encode())

    assert popped.job is None
    assert "100000 images" in popped.problem
    assert popped.ids == tuple(many[:20])


def test_an_id_of_a_megabyte_is_no_answer_to_a_pop(a_pop: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(TransportError, match="an id of over 256 characters"):
        read_pop(json.dumps(a_pop() | {"id": "f" * 2**20, "ids": None}).encode())
