"""Names and instructions against what lies on disk."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.config.models import resolve_models


@dataclass(frozen=True)
class OnDisk:
    architecture: str


AVAILABLE = {
    "Deliberate": OnDisk("stable_diffusion_1"),
    "AlbedoBase XL": OnDisk("sdxl"),
    "Old One": OnDisk("stable_diffusion_2_v"),
    "Juggernaut XL": OnDisk("sdxl"),
    "All in one": OnDisk("stable_diffusion_1_inpainting"),
}
NAMES = tuple(AVAILABLE)


@pytest.mark.parametrize(
    ("load", "names"),
    [
        (["ALL"], NAMES),
        (["all models"], NAMES),
        (["ALL MODEL"], NAMES),
        (["ALL SDXL"], ("AlbedoBase XL", "Juggernaut XL")),
        (["ALL SD15 MODELS"], ("Deliberate", "All in one")),
        (["ALL INPAINTING"], ("All in one",)),
        (["baseline: stable_diffusion_xl"], ("AlbedoBase XL", "Juggernaut XL")),
        (["Baseline:stable diffusion 1"], ("Deliberate", "All in one")),
        (["ALL stable_diffusion_2_768"], ("Old One",)),
        (["all sd21 model"], ("Old One",)),
        (["ALL stable_diffusion_1_inpainting"], ("All in one",)),
        (["Juggernaut XL", "Deliberate"], ("Juggernaut XL", "Deliberate")),
        (["juggernaut xl"], ("Juggernaut XL",)),
        (["Deliberate", "ALL SD15", "Deliberate"], ("Deliberate", "All in one")),
        (["All in one"], ("All in one",)),
        (["ALL SDXL", "ALL SD15"], ("AlbedoBase XL", "Juggernaut XL", "Deliberate", "All in one")),
    ],
)
def test_what_is_asked_for_is_offered_in_that_order(load: list[str], names: tuple[str, ...]) -> None:
    assert resolve_models(load, [], AVAILABLE) == (names, ())


def test_top_and_bottom_go_by_popularity() -> None:
    popular = ["Stable Cascade", "Juggernaut XL", "Old One"]

    assert resolve_models(["TOP 2"], [], AVAILABLE, popular) == (("Juggernaut XL", "Old One"), ())
    assert resolve_models(["bottom 1"], [], AVAILABLE, popular) == (("All in one",), ())


def test_top_and_bottom_go_by_the_order_on_disk_without_popularity_and_say_so() -> None:
    names, [note] = resolve_models(["TOP 2"], [], AVAILABLE)

    assert names == ("Deliberate", "AlbedoBase XL")
    assert "order on disk" in note


def test_what_is_skipped_is_not_made_up_for() -> None:
    names, _ = resolve_models(["TOP 2"], ["Deliberate", "not here"], AVAILABLE)

    assert names == ("AlbedoBase XL",)


def test_instructions_work_in_what_is_skipped() -> None:
    assert resolve_models(["ALL"], ["ALL SDXL", "ALL SD15"], AVAILABLE)[0] == ("Old One",)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ("Juggernaut", "closest is 'Juggernaut XL'"),
        ("ALL NSFW", "do not say whether they are nsfw"),
        ("ALL FLUX", "matches no model"),
        ("baseline: stable_diffusion_9", "names no architecture; known are "),
        ("TOP", "write for example TOP 3"),
        ("TOP 10xyz", "write for example TOP 3"),
        ("TOP " + "9" * 5000, "write for example TOP 3"),
    ],
)
def test_what_cannot_be_resolved_is_told_and_the_rest_goes_on(load: str, said: str) -> None:
    names, notes = resolve_models([load, "Deliberate"], [], AVAILABLE)

    assert names == ("Deliberate",)
    assert said in notes[0]


def test_when_nothing_is_left_the_models_at_hand_are_told() -> None:
    names, notes = resolve_models(["Deliberate"], ["deliberate"], AVAILABLE)

    assert names == ()
    assert "Juggernaut XL" in notes[-1]


@given(st.lists(st.text() | st.sampled_from(["ALL", "TOP 1", *NAMES])), st.lists(st.text() | st.sampled_from(NAMES)))
def test_any_lists_give_models_at_hand_each_once_and_none_that_is_skipped(load: list[str], skip: list[str]) -> None:
    names, _ = resolve_models(load, skip, AVAILABLE)

    assert len(set(names)) == len(names)
    assert set(names) <= set(NAMES) - set(skip)
