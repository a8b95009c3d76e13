"""Which batches without rows keep their memory."""

from __future__ import annotations

from trt_engines.architectures.stable_diffusion import unet_ports
from trt_engines.backend import Engine
from trt_engines.devices.cpu import CpuDevice
from trt_worker.batch.admission import BatchKey
from trt_worker.device.batches import IDLE, Batches
from trt_worker.device.step_batch import StepBatch


def no_engine(tokens: int, rows: int) -> Engine:
    raise AssertionError(f"an empty batch asked for an engine of {tokens} tokens")


def a_size(number: int) -> BatchKey:
    return BatchKey(model="a model", backend="a backend", width=64 * number, height=64)


def test_of_batches_without_rows_those_that_were_used_last_are_kept() -> None:
    device, closed = CpuDevice(), list[BatchKey]()
    stream = device.create_stream("denoise")

    def make(key: BatchKey, images: int) -> StepBatch:
        return StepBatch(key, images, (4, key.height // 8, key.width // 8), unet_ports(64), device, stream, no_engine)

    batches = Batches(make, closed.append, lambda: 0.0)
    for number in range(IDLE + 1):
        batches.open(a_size(1 + number), 1)
    batches.open(a_size(1), 1)

    batches.open(a_size(99), 1)

    assert closed == [a_size(2)]
