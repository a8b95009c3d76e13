"""What errors keep of the text that they quote."""

from __future__ import annotations

import pytest

from trt_worker.errors import LONGEST_REASON, BadJob, ConfigError, TransportError, UnservableJob


@pytest.mark.parametrize("kind", [BadJob, UnservableJob])
def test_what_is_said_of_a_job_is_one_short_line_whatever_it_quotes(kind: type[BadJob]) -> None:
    said = str(kind(f"no sampler {'k_' * 56_000}\n2026-01-01 | INFO | paid\x1b[2J; served are euler"))

    assert len(said) <= LONGEST_REASON
    assert said.isprintable()
    assert said.endswith("served are euler")


def test_a_message_about_a_file_keeps_its_lines_and_loses_what_steers_a_terminal() -> None:
    assert str(ConfigError("2 values\n  line 1: \x1b[2J")) == "2 values\n  line 1: \\x1b[2J"
    assert len(str(TransportError("x" * 10**6))) < 5000
