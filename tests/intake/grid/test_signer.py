"""Signatures under results, checked as the coordinator does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_worker.errors import ConfigError
from trt_worker.ethereum import load_eth_account
from trt_worker.intake.grid.signer import read_rig_key
from trt_worker.local_grid import ImageRequest

Account = load_eth_account().Account
encode_defunct = load_eth_account().messages.encode_defunct

KEY = "0x" + "4b" * 32


@pytest.fixture
def a_key_file(tmp_path: Path) -> Callable[..., Path]:
    def make(content: Any, mode: int = 0o600) -> Path:
        path = tmp_path / "key.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(mode)
        return path

    return make


def test_a_rig_with_a_key_survives_what_is_nested_without_end(a_key_file) -> None:
    """The signing library raises the recursion limit so far that reading such a frame would overrun the stack."""
    script = (
        "import sys; from pathlib import Path\n"
        "from trt_worker.intake.grid.frames import parse_frame\n"
        "from trt_worker.intake.grid.signer import read_rig_key\n"
        "read_rig_key(Path(sys.argv[1])).sign('job', ['0' * 64])\n"
        "deep = '[' * 90_000 + ']' * 90_000\n"
        'print(parse_frame(\'{"type":"job","id":"j","payload":\' + deep + \'}\').job_id)'
    )
    path = a_key_file({"private_key": KEY})
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "j\n")


@pytest.mark.anyio
async def test_a_result_is_signed_so_that_the_grid_finds_the_signer(at_work, a_key_file) -> None:
    path = a_key_file({"version": 1, "address": Account.from_key(KEY).address, "private_key": KEY})
    async with at_work(identity_key_file=path) as work:
        result = await (await work.grid.submit_grid(ImageRequest(n=2))).result()

    signer = Account.recover_message(encode_defunct(text=result.signed_text), signature=result.signature)
    assert signer == Account.from_key(KEY).address


@pytest.mark.anyio
async def test_without_a_key_nothing_is_signed(at_work) -> None:
    async with at_work() as work:
        result = await (await work.grid.submit_grid(ImageRequest())).result()

    assert (result.status, result.signature) == (200, None)


@pytest.mark.parametrize(
    ("content", "mode", "named"),
    [
        ("{", 0o600, "not JSON"),
        ([KEY], 0o600, "no private_key"),
        ({"private_key": 7}, 0o600, "no private_key"),
        ({"private_key": KEY[:-2]}, 0o600, "64 hex digits"),
        ({"private_key": "z" * 64}, 0o600, "64 hex digits"),
        ({"private_key": "0x" + "f" * 64}, 0o600, "64 hex digits"),
        ({"private_key": KEY, "address": "0x" + "1" * 40}, 0o600, "belongs to"),
        ({"private_key": KEY}, 0o644, "chmod 600"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_told_without_its_key(content, mode, named, a_key_file) -> None:
    with pytest.raises(ConfigError, match=named) as told:
        read_rig_key(a_key_file(content, mode))

    assert "4b4b" not in str(told.value)
    assert told.value.__cause__ is None or "4b4b" not in str(told.value.__cause__)


def test_a_key_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json"):
        read_rig_key(tmp_path / "absent.json")
