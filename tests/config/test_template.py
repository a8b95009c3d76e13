"""The file that operators copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trt_worker.config.keys import RELOADED, UNSERVED
from trt_worker.config.load import load_config
from trt_worker.config.schema import Config

TEMPLATE = Path(__file__).parents[2] / "bridgeData_template.yaml"
KEYS = re.compile(r"^#?(\w+):", re.MULTILINE)
OWN = {"AIWORKER_API_KEY": "grid_" + "a" * 32, "AIWORKER_DREAMER_NAME": "Rig"}


def test_the_template_has_no_notes_once_a_key_and_a_name_are_set() -> None:
    assert load_config(TEMPLATE, environ=OWN).notes == ()


def test_a_template_that_was_only_copied_tells_exactly_what_is_still_to_be_set() -> None:
    assert [note.key for note in load_config(TEMPLATE, environ={}).notes] == ["api_key", "dreamer_name"]


def test_the_template_states_the_defaults() -> None:
    assert load_config(TEMPLATE, environ={}).config == Config()


def test_the_template_shows_every_key_that_does_something_and_no_other() -> None:
    """A setting that is off by default is a line that begins with # and no space."""
    keys = KEYS.findall(TEMPLATE.read_text())

    assert sorted(keys) == sorted(set(Config.model_fields) - set(UNSERVED))


def test_settings_that_are_off_can_be_switched_on_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "bridgeData.yaml"
    file.write_text(re.sub(r"^#(?=\w+:)", "", TEMPLATE.read_text(), flags=re.MULTILINE))

    assert load_config(file, environ=OWN).notes == ()


@pytest.mark.parametrize("card", ["6 to 8 GB", "12 to 16 GB", "24 GB and more", "none (CPU)"])
def test_the_template_has_a_starting_point_for_every_class_of_rig(card: str, tmp_path: Path) -> None:
    """Which is a configuration that can be used, with the picture size it promises."""
    row = re.search(rf"^#\s+{re.escape(card)}\s+(\d+)\s+(\d+)\s+(\d+)\s+up to (\d+) x \4$", TEMPLATE.read_text(), re.M)
    assert row is not None
    max_batch, queue_size, max_power, side = map(int, row.groups())

    config = Config(max_batch=max_batch, queue_size=queue_size, max_power=max_power)

    assert side**2 <= config.max_pixels < (side + 1) ** 2


def test_the_template_says_restart_where_one_is_needed_and_nowhere_else() -> None:
    """Of the key that follows, in the comment above it."""
    blocks = re.split(r"\n\s*\n", TEMPLATE.read_text())
    says = {key: "[restart]" in block for block in blocks for key in KEYS.findall(block)}

    assert {key for key, restart in says.items() if restart} == says.keys() - RELOADED
