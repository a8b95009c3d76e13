"""Makers of job records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from trt_worker.delivery import Settlement
from trt_worker.telemetry.metrics import JobRecord

TEN_MEGAPIXEL_STEPS = JobRecord(
    id="job",
    model="m",
    transport="grid",
    backend="onnxruntime",
    width=1000,
    height=1000,
    steps=10,
    images=1,
    settlement=Settlement.PAID,
    reward=2.0,
    unit="den",
    received=100.0,
    started=101.0,
    denoising=102.0,
    denoised=104.0,
    encoded=106.0,
    acknowledged=110.0,
)


@pytest.fixture(scope="session")
def a_record() -> Callable[..., JobRecord]:
    """10 megapixel-steps: 2 s of denoising, 5 s on a device, 10 s from dispatch to acknowledgement."""

    def make(*, later: float = 0.0, **changes: object) -> JobRecord:
        record = TEN_MEGAPIXEL_STEPS
        times = {
            name: getattr(record, name) + later
            for name in ("received", "started", "denoising", "denoised", "encoded", "acknowledged")
        }
        return replace(record, **{**times, **changes})  # type: ignore[arg-type]

    return make
