"""The cost model against published speeds."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from trt_engines.costs.roofline import CONSTANTS
from trt_perf.cost_fit import CHECKED, FITTED, Fit, fit
from trt_perf.published import AITEMPLATE, PUBLISHED

STORED = Fit(constants=CONSTANTS, aitemplate=AITEMPLATE.slowness)


def test_every_published_speed_is_met_within_a_quarter_those_that_were_not_fitted_too() -> None:
    for half in (FITTED, CHECKED):
        errors = STORED.errors(half)
        assert max(abs(error) for error in errors.values()) <= 0.25, errors


def test_the_stored_constants_are_those_that_the_fit_finds() -> None:
    found = fit()

    assert asdict(found.constants) == pytest.approx(asdict(CONSTANTS), rel=0.05)
    assert found.aitemplate == pytest.approx(AITEMPLATE.slowness, rel=0.05)


def test_the_halves_are_every_other_name() -> None:
    names = [speed.name for speed in PUBLISHED]

    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert (PUBLISHED[::2], PUBLISHED[1::2]) == (FITTED, CHECKED)
