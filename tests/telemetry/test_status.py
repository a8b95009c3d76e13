from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from trt_worker.network_state import NetworkState
from trt_worker.telemetry.metrics import JobRecord, Tally
from trt_worker.telemetry.status import LEAST_WIDTH, status_block

ARecord = Callable[..., JobRecord]

LABELS = ["Session", "Settled", "Earned", "MPS/S", "Speed", "Batch", "Seconds", "Networks", "Fallbacks"]
STATE = NetworkState(network="grid", connections=4, connected=3, busy=2, reconnects=5)


def labels(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if not line.startswith(" ")]


def test_a_worked_example_reads_as_expected(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())
    tally.called(calls=10, rows=25)
    tally.queued(3)
    tally.fell_back("LoRA needs PyTorch")

    assert status_block(tally.snapshot(3725.0, [STATE]), 200) == [
        "Session   1 h 02 m 05 s | 1 jobs | 1 images | 3 queued",
        "Settled   paid 1 | unpaid 0 | unacknowledged 0 | returned 0 | refused 0 | failed 0",
        "Earned    2.00 den, 1.93 den/h",
        "MPS/S     engine - (session 5.00) | device - (session 2.00) | grid - (session 1.00)",
        "Speed     good, 1.00 as the network counts",
        "Batch     2.50 rows per engine call | 10 calls",
        "Seconds   waiting - | making - | handing in -",
        "Networks  grid: 3 of 4 connected, 2 busy, 5 reconnects",
        "Fallbacks 1 x LoRA needs PyTorch",
    ]


def test_before_the_first_job_all_labels_are_there() -> None:
    lines = status_block(Tally(began=0.0).snapshot(5.0), 80)

    assert labels(lines) == LABELS
    assert "Earned    -" in lines
    assert "Fallbacks none" in lines
    assert "Networks  -" in lines


def test_what_a_network_is_not_offered_is_shown_with_its_reason() -> None:
    state = dataclasses.replace(
        STATE,
        withdrawn={"m": "none of its 2 recipe(s) can be served"},
        unserved={f"n, 0x{number}": "node '7' (FaceSwap)\x1b[2J" for number in range(4)},
        lost={"rig-2": "in use by another connection"},
        notes=["in maintenance: back on Monday"],
    )

    assert status_block(Tally(began=0.0).snapshot(5.0, [state]), 60)[-6:-1] == [
        "Networks  grid: 3 of 4 connected, 2 busy, 5 reconnects",
        "          1 not offered: m: none of its 2 recipe(s) can b...",
        "          4 recipes not served: n, 0x0: node '7' (FaceSwa...",
        "          1 names lost: rig-2: in use by another connection",
        "          in maintenance: back on Monday",
    ]


def test_a_slow_worker_is_told_what_to_set(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record(steps=1))

    assert "Speed     slow, 0.10 as the network counts | set extra_slow_worker: true, so that jobs get more time" in (
        status_block(tally.snapshot(200.0), 120)
    )


def test_hourly_pay_of_the_first_hour_says_that_it_is_extrapolated(a_record: ARecord) -> None:
    tally = Tally(began=0.0)
    tally.finished(a_record())

    assert "Earned    2.00 den, 4.00 den/h (extrapolated)" in status_block(tally.snapshot(1800.0), 80)


def test_rare_fallback_reasons_are_summed_up() -> None:
    tally = Tally(began=0.0)
    for count, reason in enumerate("abcdefg", start=1):
        for _ in range(count):
            tally.fell_back(reason)

    assert status_block(tally.snapshot(1.0), 200)[-1] == (
        "Fallbacks 7 x g | 6 x f | 5 x e | 4 x d | 3 x c | and 2 more reasons"
    )


@given(
    width=st.integers(0, 200),
    reasons=st.lists(st.text(min_size=1, max_size=300), max_size=12),
    jobs=st.integers(0, 3),
    unit=st.sampled_from(["den", "kudos"]),
)
def test_the_block_is_one_screen_of_plain_lines_no_wider_than_asked(
    a_record: ARecord, width: int, reasons: list[str], jobs: int, unit: str
) -> None:
    tally = Tally(began=0.0)
    for reason in reasons:
        tally.fell_back(reason)
    for _ in range(jobs):
        tally.finished(a_record(unit=unit, reward=1e6))

    state = dataclasses.replace(STATE, withdrawn=dict.fromkeys(reasons, unit), lost=dict.fromkeys(reasons, unit))
    lines = status_block(tally.snapshot(200.0, [state]), width)

    assert labels(lines) == LABELS
    assert max(map(len, lines)) <= max(width, LEAST_WIDTH)
    assert len(lines) <= 24
    assert all(line.isprintable() for line in lines)
