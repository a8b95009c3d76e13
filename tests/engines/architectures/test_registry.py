"""Architectures by name and by what networks call them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trt_engines.architectures.registry import ARCHITECTURES, UnknownArchitecture, architecture, known_as

LOADED = """
import sys
import trt_engines.architectures.registry
print(sorted({"torch", "diffusers", "transformers", "onnxruntime"} & set(sys.modules)))
"""


def test_an_architecture_is_found_by_its_name_and_an_unknown_one_names_those_there_are() -> None:
    assert architecture("flux_dev").title == "Flux.1 dev"

    with pytest.raises(UnknownArchitecture, match=r"no architecture 'flux_pro'; known are .*flux_dev.*krea_2_turbo"):
        architecture("flux_pro")


def test_names_of_architectures_are_used_once() -> None:
    names = [entry.name for entry in ARCHITECTURES]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("alias", "names"),
    [
        ("stable_diffusion_xl", {"sdxl"}),
        ("stable_diffusion_2_768", {"stable_diffusion_2_v"}),
        ("stable_diffusion_1", {"stable_diffusion_1", "stable_diffusion_1_inpainting"}),
        ("flux_1", {"flux_schnell", "flux_dev", "flux_krea_dev", "chroma"}),
        ("krea_2_turbo", {"krea_2_turbo"}),
        ("stable_diffusion_3", set()),
    ],
)
def test_a_networks_word_may_stand_for_several(alias: str, names: set[str]) -> None:
    assert {entry.name for entry in known_as(alias)} == names


def test_reading_them_loads_no_library_that_computes() -> None:
    printed = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"
