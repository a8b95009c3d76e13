"""The noise suite measures every kind of noise, under the names that have targets."""

from __future__ import annotations

import pytest

from trt_perf.suites import noise
from trt_perf.targets import TARGETS


def test_every_kind_of_noise_has_a_figure_for_every_latent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "SIDES", (4, 8))
    monkeypatch.setattr(noise, "STEPS", 3)

    figures = noise.measure()

    kinds = ("start", "asked", *noise.SAMPLERS)
    assert set(figures) == {f"noise_{kind}_us_{side}" for kind in kinds for side in (4, 8)}
    assert all(value > 0 for value in figures.values())


def test_the_targets_of_noise_are_figures_of_the_suite() -> None:
    kinds = {"start", "asked", *noise.SAMPLERS}
    figures = {f"noise_{kind}_us_{side}" for kind in kinds for side in noise.SIDES}

    assert {name for name in TARGETS if name.startswith("noise_")} <= figures
