"""Plans that are the same engine, and plans that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_engines.builders.comparison import same_engine

PLAN = b"weights" * 100 + b'"__mye630098" "proxy___mye630274"' + b"layers" * 100


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (PLAN, True),
        (PLAN.replace(b"630098", b"630226"), True),
        (PLAN.replace(b"630274", b"731275"), True),
        (PLAN.replace(b"proxy", b"maker"), False),
        (PLAN.replace(b"layers", b"Layers", 1), False),
        (PLAN.replace(b"630098", b"63009x"), False),
        (PLAN + b"more", False),
    ],
)
def test_only_the_builders_own_numbers_may_differ(tmp_path: Path, other: bytes, same: bool) -> None:
    one, two = tmp_path / "one.plan", tmp_path / "other.plan"
    one.write_bytes(PLAN)
    two.write_bytes(other)

    assert same_engine(one, two) is same
