"""Which models are offered, as their folders change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trt_engines.description import FILE
from trt_engines.model import BUILT_IN
from trt_engines.weights import DigestNotes
from trt_worker.config.schema import Config
from trt_worker.supervisor.offering import Offering


def a_model(folder: Path, *, added: bool) -> Path:
    """A copy of the shipped model under another name; added from a checkpoint, or put there."""
    place = Path(shutil.copytree(BUILT_IN / "shapes-tiny", folder / "mine"))
    described = json.loads((place / FILE).read_bytes()) | {"name": "mine"}
    if added:
        described["source"] = {"path": str(folder / "mine.safetensors")}
    (place / FILE).write_text(json.dumps(described))
    return place


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("added", [True, False])
def test_a_model_whose_checkpoint_changed_is_offered_as_it_is_when_it_was_added_anew(
    tmp_path: Path, added: bool
) -> None:
    folder = a_model(tmp_path, added=added)
    described = json.loads((folder / FILE).read_bytes())
    weights = next(folder / name for name in described["digests"])
    flip(weights)
    offering, config = Offering(DigestNotes(None)), Config(cache_home=tmp_path)

    first = offering.find(config)

    assert ("mine" in first.models) is not added  # no device gets to know what is about to be another one
    assert set(first.damaged) == (set() if added else {"mine"})

    flip(weights)  # as it is added anew: description and weights agree
    (folder / FILE).write_text(json.dumps(described | {"native_width": 128}))
    again = offering.find(config)

    assert again.damaged == {}
    assert again.models["mine"].native_width == (128 if added else first.models["mine"].native_width)
