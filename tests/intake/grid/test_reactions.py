"""What a closing means."""

from __future__ import annotations

import pytest

from trt_worker.intake.grid.reactions import Verdict, react


@pytest.mark.parametrize(
    ("code", "message", "verdict"),
    [
        (4001, "Invalid API key", Verdict.FATAL),
        (4001, "Missing apikey or name", Verdict.FATAL),
        (4003, "API key lacks worker.connect scope", Verdict.FATAL),
        (4003, "worker credential targets another rig", Verdict.FATAL),
        (4003, "worker name already registered to another account", Verdict.FATAL),
        (4003, "worker registration proof does not match advertised capabilities", Verdict.FATAL),
        (4003, "worker identity timestamp is stale", Verdict.RETRY),
        (4003, "Worker recently evicted for failed generations; retry shortly.", Verdict.EVICTED),
        (4003, "something new", Verdict.RETRY),
        (1012, "", Verdict.TAKEN),
        (1000, "", Verdict.RETRY),
        (1011, "", Verdict.RETRY),
        (1006, "", Verdict.RETRY),
        (None, "", Verdict.RETRY),
    ],
)
def test_a_closing_means(code, message, verdict) -> None:
    reaction = react(code, message)

    assert reaction.verdict is verdict
    assert message in reaction.sentence


def test_a_retired_model_is_named() -> None:
    reaction = react(4003, "Retired model identity: flux.1-krea-dev, flux.1-krea-dev-fp8")

    assert (reaction.verdict, reaction.models) == (Verdict.RETIRED, ("flux.1-krea-dev", "flux.1-krea-dev-fp8"))


def test_what_the_grid_says_is_one_short_line_and_every_retired_name_is_still_heard() -> None:
    names = [f"model-{number}" for number in range(1000)]
    reaction = react(4003, "retired model identity: " + ", ".join(names) + "\x1b[2J\nforged")

    assert reaction.sentence.isprintable()
    assert len(reaction.sentence) < 400
    assert reaction.models[:999] == tuple(names[:999])
