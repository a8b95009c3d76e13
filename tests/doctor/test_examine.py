"""What doctor says of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_worker.doctor.examine import examine


@pytest.mark.parametrize(
    ("mode", "text", "told"),
    [
        (0o644, "api_key: a-key-of-mine\n", True),
        (0o640, "api_key: a-key-of-mine\n", False),
        (0o644, "dreamer_name: rig\n", False),
    ],
)
def test_a_file_with_a_key_that_everybody_may_read_is_told_with_what_mends_it(
    tmp_path: Path, mode: int, text: str, told: bool
) -> None:
    file = tmp_path / "bridgeData.yaml"
    file.write_text(text + "grid_url: ws://127.0.0.1:9/\ngrid_http_url: http://127.0.0.1:9\n")
    file.chmod(mode)

    findings = examine(file, {}, tmp_path)

    assert [finding.mark for finding in findings if "chmod 600" in finding.mend] == ["note"] * told
    assert not [finding for finding in findings if "a-key-of-mine" in finding.text + finding.mend]
