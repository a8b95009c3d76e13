"""Published layouts are bound or refused as is right for each; the suite counts all of them, a test the quick ones."""

from __future__ import annotations

import pytest

from trt_perf.robustness.checkpoint_cases import CASES, HEADERS, Case
from trt_perf.robustness.layouts import wrong

SLOW = ("sdxl", "flux", "chroma")
"""Networks of many weights, whose layouts the tests of their tables bind in small."""


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, id=one.name) for one in CASES if one.words or not one.name.startswith(SLOW)],
)
def test_a_published_layout_is_bound_or_refused_by_its_name(case: Case) -> None:
    assert wrong(case) is None


def test_every_published_header_is_a_case() -> None:
    assert {file.stem for file in HEADERS.glob("*.json")} <= {case.name for case in CASES}
