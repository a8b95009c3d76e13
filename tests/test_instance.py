"""One worker a name, one log folder a worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_worker.errors import ConfigError
from trt_worker.instance import folder_name, only_worker


def test_the_second_worker_of_a_name_is_told_who_has_it_and_may_start_when_that_one_has_left(tmp_path: Path) -> None:
    with (
        only_worker("rig", tmp_path, tmp_path),
        pytest.raises(ConfigError, match=r"'rig' \(process .*another name with -n"),
        only_worker("rig", tmp_path, tmp_path / "rig"),
    ):
        pytest.fail("two workers have one name")

    with only_worker("rig", tmp_path, tmp_path):
        pass


def test_another_name_needs_another_log_folder(tmp_path: Path) -> None:
    with only_worker("rig", tmp_path, tmp_path):
        with pytest.raises(ConfigError, match="writes its logs"), only_worker("other", tmp_path, tmp_path):
            pytest.fail("two workers write into one file")
        with only_worker("other", tmp_path, tmp_path / "other"):
            pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="log_dir"), only_worker("rig", tmp_path / "file", tmp_path / "file"):
        pytest.fail("a file is no folder")


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100))
def test_every_name_becomes_a_plain_folder_and_no_two_the_same(one: str, other: str) -> None:
    folder = folder_name(one)

    assert "/" not in folder
    assert folder not in {"", ".", ".."}
    assert len(folder.encode()) <= 255
    assert one == other or folder != folder_name(other)
