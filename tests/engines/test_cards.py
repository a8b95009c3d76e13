"""Cards by the names that tools and people give them."""

from __future__ import annotations

import pytest

from trt_engines.cards import Card, UnknownCard, card, cards, compute_capability


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RTX 3060", "RTX 3060"),
        ("rtx3060ti", "RTX 3060 Ti"),
        ("3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "RTX 3080 Laptop"),
        ("NVIDIA GeForce RTX 2080 with Max-Q Design", "RTX 2080 Laptop"),
        ("NVIDIA GeForce GTX 1660 SUPER", "GTX 1660 Super"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 PCIe"),
        ("Tesla T4", "T4"),
        ("Quadro RTX 6000", "RTX 6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA L40S", "L40S"),
        ("RTX 4060 Ti 16GB", "RTX 4060 Ti 16GB"),
        ("gtx 1660", "GTX 1660"),
    ],
)
def test_a_card_is_found_by_every_way_its_name_is_written(written: str, name: str) -> None:
    assert card(written).name == name


def test_every_card_is_found_by_its_own_name_and_by_its_full_name() -> None:
    for one in cards():
        assert card(one.name) == one
        assert card(f"NVIDIA {one.name}") == one


@pytest.mark.parametrize(
    ("name", "sm", "gigabytes", "fp16"),
    [
        ("GTX 1660", 75, 6, 10.05),
        ("RTX 3060", 86, 12, 25.5),
        ("RTX 3090", 86, 24, 71.2),
        ("RTX 4090", 89, 24, 165.2),
        ("RTX 5090", 120, 32, 209.5),
        ("H100", 90, 80, 989),
        ("T4", 75, 16, 65),
        ("RTX 6000 Ada", 89, 48, 364),
    ],
)
def test_published_figures_are_met(name: str, sm: int, gigabytes: int, fp16: float) -> None:
    found = card(name)

    assert (found.sm, found.memory_bytes) == (sm, gigabytes * 2**30)
    assert found.fp16_tflops == pytest.approx(fp16, rel=0.01)


def test_a_stated_memory_size_replaces_the_listed_one() -> None:
    assert card("RTX 2080 Ti 22GB").memory_bytes == 22 * 2**30


def test_features_follow_the_generation() -> None:
    def types(name: str) -> set[str]:
        return set(card(name).precisions)

    assert types("GTX 1080") == set()
    assert types("RTX 2080 Ti") == {"float32", "float16"}
    assert types("RTX 3060") == types("GTX 1660") | {"bfloat16"}
    assert types("RTX 4090") == types("H100") == types("RTX 3060") | {"float8"}
    assert types("RTX 5090") == types("RTX 4090") | {"float4"}
    assert not card("GTX 1660").tensor_cores
    assert card("GTX 1660").bf16_tflops is None


def test_each_card_names_its_builders_or_why_it_has_none() -> None:
    assert card("RTX 3060").builders == ("tensorrt-rtx", "tensorrt")
    assert card("H100").builders == ("tensorrt",)
    assert card("GTX 1080").builders == ()
    assert "Pascal" in str(card("GTX 1080").unsupported)
    assert "Volta" in str(card("V100").unsupported)
    assert all(bool(one.builders) is (one.unsupported is None) for one in cards())


def test_an_unknown_name_lists_the_closest_ones() -> None:
    with pytest.raises(UnknownCard, match=r"RTX 3060.*SM86"):
        card("RTX 3066")


def test_another_make_is_told_what_serves_it() -> None:
    with pytest.raises(UnknownCard, match="PyTorch fallback"):
        card("AMD Radeon RX 7900 XTX")


@pytest.mark.parametrize("text", ["SM86", "sm_86", "8.6", "86", "RTX 3060"])
def test_a_compute_capability_is_read_from_any_notation(text: str) -> None:
    assert compute_capability(text) == 86


def test_a_two_digit_major_version_is_read() -> None:
    assert compute_capability("12.0") == compute_capability("SM120") == compute_capability("120") == 120


@pytest.mark.parametrize("text", ["SM88", "9.9", "SM999"])
def test_a_compute_capability_that_no_card_has_is_refused(text: str) -> None:
    with pytest.raises(UnknownCard, match="SM86"):
        compute_capability(text)


def test_a_card_is_a_value() -> None:
    assert isinstance(card("RTX 3060"), Card)
    assert hash(card("RTX 3060")) == hash(card("NVIDIA GeForce RTX 3060"))
