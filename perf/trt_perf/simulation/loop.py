"""The worker's own loop on a simulated card, with the models of the trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.text_encoders import CHUNK
from trt_engines.backend import EngineSpec
from trt_engines.backends.host_source import NetworkSource
from trt_engines.backends.on_device import OnDeviceBackend
from trt_engines.costs.hardware import Hardware
from trt_engines.devices.device import DeviceProperties
from trt_engines.devices.operations import Network
from trt_engines.devices.simulated.device import SimulatedDevice
from trt_engines.devices.simulated.timeline import Unit
from trt_engines.model import Model, find_models
from trt_engines.residency import Memory
from trt_perf.simulation.costs import SUBMIT_SECONDS, CardCosts
from trt_perf.simulation.trace import FAMILIES, Job
from trt_worker import frames
from trt_worker.condition.chunks import FRAME
from trt_worker.device.loop import DeviceLoop, Emit
from trt_worker.job import ImageSeed, JobSpec

BACKEND = "simulated"

MAX_ROWS = 8
"""Images of one batch."""

DUE_SECONDS = 300.0
"""What the grid's clients wait, from when a job is taken off the network."""

SHIPPED = "shapes-tiny"
"""Model whose files stand for those of the families."""


class SimulatedLoop:
    """What a device process is, without the process: its loop on a card, whose clock is the loop's.

    All networks are resident from the beginning.

    Args:
        costs: of that card.
        emit: as the loop has it.
    """

    def __init__(self, hardware: Hardware, costs: CardCosts, emit: Emit) -> None:
        properties = DeviceProperties(
            name=hardware.card.name,
            sm=hardware.card.sm,
            memory_bytes=hardware.card.memory_bytes,
            multiprocessors=hardware.multiprocessors,
        )
        self._card = SimulatedDevice(
            properties, seconds=costs.seconds, share=costs.share, submit_seconds=SUBMIT_SECONDS, computes=False
        )
        self._emit = emit
        self._warming = True
        self._loop = DeviceLoop(
            simulated_models(),
            {BACKEND: OnDeviceBackend(BACKEND, NetworkSource(_nothing_runs, self._card))},
            max_rows=MAX_ROWS,
            budgets=dict.fromkeys(Memory, properties.memory_bytes),
            emit=self._tell,
            clock=lambda: self._card.clock,
        )
        for family in FAMILIES:
            side = family.native_side
            first = Job(id=family.name, family=family, arrived=0, width=side, height=side, steps=1, images=1, tokens=77)
            self.take(first, received=self.now)
        while self.busy:
            self.step()
        self._warming = False

    @property
    def now(self) -> float:
        """Seconds on the card's clock."""
        return self._card.clock

    @property
    def busy(self) -> bool:
        """Whether any job is unfinished."""
        return self._loop.busy

    @property
    def card_busy_seconds(self) -> float:
        """Seconds in which the card computed so far, each times the share of it that did."""
        return self._card.busy_seconds[Unit.COMPUTE]

    def take(self, job: Job, *, received: float) -> None:
        """Accept a job. Args: received: seconds on the card's clock."""
        self._loop.take(request(job, received=received), b"")

    def step(self) -> None:
        """One turn of the loop."""
        self._loop.step()

    def sleep_until(self, time: float) -> None:
        """Let time pass in which there is nothing to do."""
        self._card.advance(max(time - self.now, 0.0))

    def _tell(self, header: frames.FromDevice, body: NDArray[np.uint8] | None) -> None:
        if isinstance(header, frames.Failed):
            raise RuntimeError(f"job {header.id} failed ({header.kind}): {header.message}")
        if not self._warming:
            self._emit(header, body)


def simulated_models() -> Mapping[str, Model]:
    """The families of the trace as models: tensors of their real sizes, files of the model that ships."""
    shipped = find_models()[SHIPPED]
    (files, *_) = shipped.networks.values()
    return {
        family.name: replace(
            shipped,
            name=family.name,
            architecture=family.architecture,
            networks=dict.fromkeys(family.networks, files),
            native_width=family.native_side,
            native_height=family.native_side,
        )
        for family in FAMILIES
    }


def request(job: Job, *, received: float) -> frames.Run:
    """A job as the supervisor gives it to the device.

    Its prompt is like no other's and fills as many chunks as the job has tokens for; the negative prompt is empty, as
    everybody's.
    """
    chunks = job.tokens // CHUNK
    words = [*job.id, *["red"] * ((CHUNK - FRAME) * (chunks - 1) + 1)]
    spec = JobSpec(
        id=job.id,
        model=job.family.name,
        prompt=" ".join(words),
        width=job.width,
        height=job.height,
        steps=job.steps,
        guidance=7.0,
        sampler="euler",
        scheduler="karras",
        seeds=tuple(ImageSeed(value=index) for index in range(job.images)),
        received=received,
        due=received + DUE_SECONDS,
    )
    return frames.Run(backend=BACKEND, job=spec)


def _nothing_runs(spec: EngineSpec) -> Network:
    def network(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise RuntimeError(f"{spec.label} was run on a card that computes nothing")

    return network
