"""What is done after an answer, for the codes of both servers' tables and the ones that no recording shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.intake.horde.reactions import RETIRED, Endpoint, Verdict, react


def body(rc: str | None = None, message: str = "some text", **more: Any) -> bytes:
    return json.dumps({"message": message} | ({"rc": rc} if rc else {}) | more).encode()


@pytest.mark.parametrize(
    ("status", "rc"),
    [
        (401, "InvalidAPIKey"),
        (403, "AnonForbiddenWorker"),
        (403, "DeletedUser"),
        (403, "WrongCredentials"),
        (400, "PolymorphicNameConflict"),
        (400, "ProfaneWorkerName"),
        (400, "ProfaneBridgeAgent"),
        (400, "InvalidPriorityUsername"),
        (400, "BadRequest"),
        (403, "TooManyWorkers"),
        (403, "TooManyWorkersTrusted"),
        (403, "TooManySameIPs"),
        (403, "Forbidden"),
        (403, "WorkerInviteOnly"),
        (403, "WorkerFlaggedMaintenance"),
    ],
)
def test_a_pop_refused_for_key_name_or_account_is_never_repeated(status: int, rc: str) -> None:
    reaction = react(Endpoint.POP, status, body(rc, "the server's words"))

    assert reaction.verdict is Verdict.FATAL
    assert rc in reaction.sentence
    assert "the server's words" in reaction.sentence


@pytest.mark.parametrize("rc", ["TimeoutIP", "TooManyNewIPs", "UnsafeIP"])
def test_a_refused_address_waits_for_minutes(rc: str) -> None:
    reaction = react(Endpoint.POP, 403, body(rc))

    assert (reaction.verdict, reaction.seconds) == (Verdict.SLOW_DOWN, 600.0)


def test_a_time_out_waits_for_the_seconds_that_it_names() -> None:
    reaction = react(Endpoint.POP, 403, body("TimeoutIP", "10.0.0.1 is in timeout for 47 more seconds."))

    assert (reaction.verdict, reaction.seconds) == (Verdict.SLOW_DOWN, 47.0)


def test_the_code_decides_and_not_the_words() -> None:
    fooled = body("InvalidJobID", "Maintenance mode activated because worker is dropping too many jobs. DuplicateGen")

    assert react(Endpoint.POP, 403, body(None, "WorkerMaintenance")).verdict is not Verdict.MAINTENANCE
    assert react(Endpoint.SUBMIT, 404, fooled).verdict is Verdict.DROP


def test_maintenance_is_the_owners_sentence_and_not_an_error() -> None:
    reaction = react(Endpoint.POP, 403, body("WorkerMaintenance", "Back on Monday"))

    assert (reaction.verdict, reaction.sentence, reaction.seconds) == (Verdict.MAINTENANCE, "Back on Monday", 60.0)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_retired_server_is_final_everywhere(endpoint: Endpoint) -> None:
    gone = json.dumps({"status": "gone", "message": "The legacy /api/v2 API has been retired."}).encode()

    reaction = react(endpoint, 410, gone)

    assert reaction.verdict is Verdict.FATAL
    assert RETIRED in reaction.sentence


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 408])
def test_a_servers_own_trouble_is_tried_again(endpoint: Endpoint, status: int) -> None:
    assert react(endpoint, status, b"<html>Bad gateway</html>", None).verdict is Verdict.RETRY


def test_retry_after_counts_on_429_and_503_alone() -> None:
    assert react(Endpoint.POP, 429, body(), 40.0).seconds == 40.0
    assert react(Endpoint.POP, 503, body(), 40.0).seconds == 40.0
    assert react(Endpoint.POP, 500, body(), 40.0).seconds == 0.0
    assert react(Endpoint.POP, 200, body(), 40.0).seconds == 0.0
    assert react(Endpoint.POP, 429, body(), 0.0).seconds > 0.0
    assert react(Endpoint.POP, 429, body(), 1e12).seconds <= 3600.0


def test_an_unknown_key_crashes_the_servers_submit_and_is_not_taken_for_a_verdict_on_the_image() -> None:
    assert react(Endpoint.SUBMIT, 500, b'{"message": "Internal Server Error"}').verdict is Verdict.RETRY


def test_only_a_late_result_counts_as_dropped() -> None:
    assert react(Endpoint.SUBMIT, 400, body("AbortedGen")).counted
    assert not react(Endpoint.SUBMIT, 404, body("InvalidJobID")).counted
    assert not react(Endpoint.SUBMIT, 400, body("DuplicateGen")).counted


def test_a_refused_field_is_named() -> None:
    reaction = react(Endpoint.POP, 400, body(errors={"threads": "'2' is not of type 'integer'"}))

    assert reaction.verdict is Verdict.FATAL
    assert "threads: '2' is not of type 'integer'" in reaction.sentence


def test_a_missing_key_is_told_as_a_key_problem_although_the_schema_check_found_it() -> None:
    reaction = react(Endpoint.POP, 400, body(errors={"apikey": "Missing required parameter"}))

    assert reaction.verdict is Verdict.FATAL
    assert "API key" in reaction.sentence


def test_a_page_without_a_code_does_not_end_a_running_worker() -> None:
    assert react(Endpoint.POP, 404, b"<!doctype html>").verdict is Verdict.SLOW_DOWN
    assert react(Endpoint.POP, 403, b"<!doctype html>").verdict is Verdict.SLOW_DOWN
    assert react(Endpoint.POP, 400, body("SomethingNew")).verdict is Verdict.SLOW_DOWN


def test_an_address_without_a_horde_behind_it_is_told_at_the_start() -> None:
    reaction = react(Endpoint.FIND_USER, 404, b"<!doctype html>")

    assert reaction.verdict is Verdict.FATAL
    assert "check the url" in reaction.sentence


@given(st.sampled_from(Endpoint), st.integers(100, 599), st.binary(max_size=60), st.none() | st.floats(0, 1e9))
def test_any_answer_has_a_reaction(endpoint: Endpoint, status: int, raw: bytes, retry_after: float | None) -> None:
    reaction = react(endpoint, status, raw, retry_after)

    assert (reaction.verdict is Verdict.DONE) == (200 <= status < 300)
    assert 0.0 <= reaction.seconds <= 3600.0
    assert reaction.sentence or reaction.verdict is Verdict.DONE


@given(
    st.sampled_from(Endpoint),
    st.integers(300, 599),
    st.dictionaries(st.sampled_from(["rc", "message", "errors"]), st.none() | st.integers() | st.text() | st.just({})),
)
def test_error_bodies_of_any_form_have_a_reaction(endpoint: Endpoint, status: int, odd: dict[str, Any]) -> None:
    assert react(endpoint, status, json.dumps(odd).encode()).sentence
