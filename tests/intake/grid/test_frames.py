"""Frames as they come: read leniently, never trusted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.intake.grid import frames
from trt_worker.intake.grid.frames import Unreadable, parse_frame

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def test_unknown_fields_are_passed_over() -> None:
    assert parse_frame('{"type":"ready","worker_id":"w","since":3}') == frames.Ready(worker_id="w")
    assert parse_frame('{"type":"ping","n":1}') == frames.Ping()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '"job"', '{"id":"no type"}', '{"type":"gossip"}', '{"type":"job","id":', '{"type":3}',
     '{"type":"job"}', '{"type":"job","id":7}', "[" * 100_000, b"\xff\xfe"],
)  # fmt: skip
def test_what_is_no_frame_is_named_unreadable(text: str | bytes) -> None:
    assert isinstance(parse_frame(text), Unreadable)


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        (r'{"type":"job","id":"j","payload":{"prompt":"\ud83d and no more"}}', "j"),
        (r'{"payload":{"prompt":"a \\ud83d\ude00 \udc00"},"id":"j","type":"job"}', "j"),
        (' { "type" : "job" , "id" : "j" , "payload" : {"steps": NaN} }', "j"),
        ('{"type":"job","id":"j","payload":{"prom', "j"),
        ('{"type":"job","id":"j","payload":' + "[" * 100_000, "j"),
        (r'{"type":"ack","id":"j","den":"\ud83d"}', ""),
        ('{"type":"job","id":7,"payload":{"id":"j"}}', ""),
        ('{"type":"job","id":"' + "j" * 300 + '","payload":', ""),
    ],
)
def test_a_job_that_cannot_be_read_is_told_by_its_id(text: str, job_id: str) -> None:
    frame = parse_frame(text)

    assert isinstance(frame, Unreadable)
    assert frame.job_id == job_id


def test_a_job_with_odd_fields_still_says_whose_it_is() -> None:
    frame = parse_frame('{"type":"job","id":"j","job_type":1,"model":null,"payload":[],"upload":"x"}')

    assert isinstance(frame, frames.Job)
    assert frame.id == "j"


@pytest.mark.parametrize(
    ("den", "reward"), [("1.2", 1.2), ("0", 0.0), ('"2"', 0.0), ("null", 0.0), ("true", 0.0), ("9" * 400, 0.0)]
)
def test_a_reward_that_is_no_number_is_nothing(den: str, reward: float) -> None:
    frame = parse_frame(f'{{"type":"ack","id":"j","den":{den}}}')

    assert isinstance(frame, frames.Ack)
    assert frame.reward == reward


@given(st.text() | st.binary())
def test_no_text_makes_the_reader_fail(text: str | bytes) -> None:
    assert isinstance(parse_frame(text), frames.Frame | frames.Unreadable)


@given(
    kind=st.sampled_from(["ready", "ping", "job", "ack", "error", "cancel"]),
    fields=st.dictionaries(
        st.sampled_from(["id", "den", "message", "payload", "upload", "model", "worker_id"]), ANYTHING
    ),
)
def test_no_field_of_a_known_frame_makes_the_reader_fail(kind: str, fields: dict[str, object]) -> None:
    frame = parse_frame(json.dumps({"type": kind, **fields}))

    if isinstance(frame, frames.Ack):
        assert frame.reward == frame.reward
