"""The worker calls nobody but the networks that it was given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ISOLATED = ["unshare", "--map-root-user", "--net", "--mount"]


def why_not() -> str:
    """Why no network namespace can be had here; empty: it can."""
    try:
        tried = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


def test_a_worker_that_serves_a_job_looks_for_nothing_outside_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"no network namespace: {reason}")
    done = subprocess.run(
        [*ISOLATED, sys.executable, str(Path(__file__).with_name("isolated.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())

    assert told["acknowledged"] == 1
    assert told["seen"] == {"names": [], "OutNoRoutes": 0, "Ip6OutNoRoutes": 0, "files": []}
    assert any("control" in name for name in told["control"]["names"])
    assert told["control"]["OutNoRoutes"] > 0
    assert told["control"]["Ip6OutNoRoutes"] > 0


@pytest.mark.parametrize("package", ["trt_engines", "trt_export", "trt_worker.device.process"])
def test_every_package_that_uses_onnx_runtime_switches_its_telemetry_off_first(package: str) -> None:
    look = f"import os, sys, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    environment = {"PATH": "/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "False"]
