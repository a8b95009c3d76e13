"""The file that operators copy."""

from __future__ import annotations

import re
from pathlib import Path

from trt_worker.config import Config, load_config
from trt_worker.config.keys import RELOADED, UNSERVED

TEMPLATE = Path(__file__).parents[2] / "bridgeData_template.yaml"
OWN = {"AIWORKER_API_KEY": "grid_" + "a" * 32, "AIWORKER_DREAMER_NAME": "Rig"}


def test_the_template_has_no_notes_once_a_key_and_a_name_are_set() -> None:
    assert load_config(TEMPLATE, environ=OWN).notes == ()


def test_a_template_that_was_only_copied_tells_exactly_what_is_still_to_be_set() -> None:
    assert [note.key for note in load_config(TEMPLATE, environ={}).notes] == ["api_key", "dreamer_name"]


def test_the_template_states_the_defaults() -> None:
    assert load_config(TEMPLATE, environ={}).config == Config()


def test_the_template_holds_no_key_that_changes_nothing() -> None:
    keys = re.findall(r"^(\w+):", TEMPLATE.read_text(), re.MULTILINE)

    assert set(keys) <= set(Config.model_fields) - set(UNSERVED)


def test_the_template_says_restart_where_one_is_needed_and_nowhere_else() -> None:
    """Of the key that follows, in the comment above it."""
    blocks = re.split(r"\n\s*\n", TEMPLATE.read_text())
    says = {key: "[restart]" in block for block in blocks for key in re.findall(r"^(\w+):", block, re.MULTILINE)}

    assert {key for key, restart in says.items() if restart} == says.keys() - RELOADED
