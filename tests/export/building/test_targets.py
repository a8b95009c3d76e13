"""Cards by name, by compute capability, and as nvidia-smi lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.cards import UnknownCard
from trt_export.building.targets import NoCard, cards_here, named_target, targets

GIB = 2**30


def test_a_card_is_what_its_name_says() -> None:
    target = named_target("NVIDIA GeForce RTX 3060")

    assert (target.name, target.sm, target.memory_bytes) == ("RTX 3060", 86, 12 * GIB)
    assert "bfloat16" in target.precisions
    assert target.unsupported is None


def test_a_compute_capability_is_a_typical_card_of_it() -> None:
    target = named_target("SM89")

    assert (target.name, target.sm) == ("SM89", 89)
    assert 8 * GIB <= target.memory_bytes <= 24 * GIB


def test_memory_that_is_named_goes_before_the_card_s_own_and_cards_are_there_once() -> None:
    (only,) = targets(["RTX 3060", "rtx3060"], vram_bytes=6 * GIB)

    assert only.memory_bytes == 6 * GIB


def test_a_name_that_nothing_goes_by_is_an_error() -> None:
    with pytest.raises(UnknownCard, match="Voodoo"):
        targets(["Voodoo 2"])


def listed(name: str, capability: str, memory: str, index: int = 0) -> str:
    """A line of the driver's list."""
    return f"{index}, GPU-{index}, {name}, {capability}, {memory}, 580.95.05"


def test_cards_are_read_from_the_driver_s_list(nvidia_smi: Callable[..., None]) -> None:
    lines = listed("NVIDIA GeForce RTX 3060", "8.6", "12288"), listed("NVIDIA GeForce GTX 1660 SUPER", "7.5", "6144", 1)
    nvidia_smi("\n".join(lines))

    first, second = cards_here()

    assert (first.sm, first.memory_bytes, first.tensor_cores) == (86, 12 * GIB, True)
    assert (second.sm, second.tensor_cores) == (75, False)


def test_a_card_that_is_not_in_the_table_is_what_the_driver_says(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(listed("NVIDIA Something New", "12.0", "24576"))

    (only,) = cards_here()

    assert (only.name, only.sm, only.tensor_cores) == ("NVIDIA Something New", 120, True)


def test_a_list_that_is_not_understood_is_an_error_that_names_the_option(nvidia_smi: Callable[..., None]) -> None:
    nvidia_smi(listed("NVIDIA GeForce RTX 3060", "[N/A]", "12288"))

    with pytest.raises(NoCard, match="--gpu"):
        cards_here()


@pytest.mark.parametrize(
    ("text", "status", "found"),
    [(listed("NVIDIA L4", "8.9", "23034"), 0, ["NVIDIA L4"]), ("No devices were found", 6, None)],
)
def test_the_driver_is_asked_by_its_program(
    nvidia_smi: Callable[..., None], text: str, status: int, found: list[str] | None
) -> None:
    nvidia_smi(text, status)

    if found is None:
        with pytest.raises(NoCard, match="No devices were found"):
            cards_here()
    else:
        assert [card.name for card in cards_here()] == found


def test_without_a_driver_there_are_no_cards_and_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert cards_here() == ()
    with pytest.raises(NoCard, match='--gpu "RTX 3060" or --gpu SM86'):
        targets([])
