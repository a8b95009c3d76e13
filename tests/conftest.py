"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong: no example of a property is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: workers share the cores. Numerical libraries read it when they are first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def the_picture() -> Callable[[str], bytes]:
    """The file of a name in `data/pictures`: pictures as customers send them."""

    def read(name: str) -> bytes:
        return (Path(__file__).parent / "data" / "pictures" / name).read_bytes()

    return read


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts an `nvidia-smi` first on the path that prints some text and ends with some status."""

    def install(text: str, status: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install
