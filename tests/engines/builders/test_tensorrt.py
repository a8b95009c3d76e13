"""What of TensorRT holds without a card: its refusals, and how a missing installation is told."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from trt_engines.builders.builder import BuilderMissing, BuildFailed, BuildRequest, keep_going
from trt_engines.builders.tensorrt import TensorRt

Requests = Callable[..., BuildRequest]
INSTALLED = importlib.util.find_spec("tensorrt") is not None


@pytest.mark.skipif(INSTALLED, reason="TensorRT is installed")
def test_a_missing_library_is_told_with_the_command_that_installs_it(request_for: Requests, tmp_path: Path) -> None:
    with pytest.raises(BuilderMissing, match=r"pip install tensorrt-cu13 --extra-index-url"):
        TensorRt().build(request_for(), tmp_path / "plan", keep_going)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capabilities": (86, 89)}, "for the card of this machine alone"),
        ({"compute_capabilities": (70,)}, "SM70 .Volta. is older than Turing"),
        ({"compute_capabilities": (75,), "precision": "bfloat16"}, "SM75 cannot compute in bfloat16"),
    ],
)
def test_what_cannot_work_is_refused(
    request_for: Requests, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(BuildFailed, match=reason):
        TensorRt().build(request_for(**changes), tmp_path / "plan", keep_going)


def test_a_hopper_card_is_not_refused(request_for: Requests) -> None:
    assert TensorRt().refuses(request_for(compute_capabilities=(90,))) is None
