"""Makers of identities and stored engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trt_engines.store.identity import Identity, InputRange
from trt_engines.store.manifest import Certificate
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored


def an_identity(**changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "architecture": "stable_diffusion_1",
        "component": "denoiser",
        "graph": "a" * 64,
        "weights": "b" * 64,
        "precision": "float16",
        "profiles": (
            (
                InputRange(name="sample", min=(1, 4, 32, 32), opt=(2, 4, 64, 64), max=(4, 4, 128, 128)),
                InputRange(name="context", min=(1, 77, 768), opt=(2, 77, 768), max=(4, 231, 768)),
            ),
        ),
        "flags": {"refit": False, "optimization_level": 3},
        "library": "tensorrt-rtx",
        "library_version": "1.7.1.116",
        "compute_capabilities": (86, 89),
    }
    return Identity(**(fields | changes))


def an_engine(
    store: Store,
    plan: bytes = b"plan" * 1000,
    *,
    models: tuple[str, ...] = ("Deliberate",),
    verdict: str = "passed",
    **changes: Any,
) -> Stored:
    with store.building(an_identity(**changes)) as staging:
        assert staging.published is None
        staging.write("engine.plan", plan)
        staging.phase_done("build", ("engine.plan",), seconds=1.5, peak_bytes=10**9, log=("built",))
        certificate = Certificate(verdict="passed" if verdict == "passed" else "failed", figures={"psnr": 48.0})
        return staging.publish(models=models, certificate=certificate, files=("engine.plan",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def identity() -> Callable[..., Identity]:
    return an_identity


@pytest.fixture
def engine() -> Callable[..., Stored]:
    return an_engine
