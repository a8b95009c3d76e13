"""The supervisor's work on jobs: an offer becomes images, bytes, a hand-in and a record; transports ask it for room."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import anyio
from loguru import logger

from trt_engines.errors import EngineError, EngineRefused
from trt_engines.model import Model
from trt_worker.concurrency import cancel_when
from trt_worker.delivery import EncodedImage, IntakeEnd, Offer, Receipt, Settlement, handed_back
from trt_worker.encode.encoder import Encoder
from trt_worker.errors import BadJob, DeviceUnusable, LateJob
from trt_worker.job import JobSpec
from trt_worker.plan.pace import Pace
from trt_worker.submit.submit import submit
from trt_worker.submit.upload import Uploader
from trt_worker.supervisor.maker import JobMaker, Making
from trt_worker.telemetry.metrics import JobRecord, Tally

COULD_NOT = "The job could not be run."
"""What the network is told of a failure whose cause is ours alone."""

_LOOKS_AGAIN_SECONDS = 1.0
"""How often it is looked whether a device is there again after many failed starts."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Open:
    job: JobSpec
    fraction: float = 0.0

    @property
    def left(self) -> float:
        """Megapixel-steps not yet done."""
        return self.job.megapixel_steps * (1 - self.fraction)


@dataclass(slots=True)
class Service:
    """Serves offers until told to stop; implements the gate that transports ask before they take a job.

    Args:
        depth: images that are taken ahead of the devices, all in all.
        models: what is offered, as long as it can be run.
        withdrawn: names of models that nothing can run now.
    """

    models: Mapping[str, Model]
    maker: JobMaker
    encoder: Encoder
    uploader: Uploader
    tally: Tally
    depth: int
    finished: Callable[[JobRecord], None]
    withdrawn: Callable[[], Collection[str]] = tuple
    pace: Pace = field(default_factory=Pace)
    _known: dict[str, Model] = field(default_factory=dict)  # these, and what was offered before
    _offer_changed: anyio.Event = field(default_factory=anyio.Event)
    _open: list[_Open] = field(default_factory=list)
    _freed: anyio.Event = field(default_factory=anyio.Event)

    def __post_init__(self) -> None:
        self.offer(self.models)

    def offer(self, models: Mapping[str, Model]) -> None:
        """Offer these models from now on. Jobs for others that the networks have given out already are still made.

        A model that is described as before stays the object that it was: what others noted about it still holds.
        """
        changed = models.keys() != self.models.keys()
        self.models = {name: self._as_known(model) for name, model in models.items()}
        self._known |= self.models
        if changed:
            self.tell_models_changed()

    def _as_known(self, model: Model) -> Model:
        known = self._known.get(model.name)
        return known if known is not None and known.same_as(model) else model

    @property
    def jobs(self) -> int:
        """Jobs taken and not yet settled."""
        return len(self._open)

    def models_served(self) -> Mapping[str, Model]:
        gone = self.withdrawn()
        return {name: model for name, model in self.models.items() if name not in gone}

    async def models_changed(self) -> None:
        await self._offer_changed.wait()

    def tell_models_changed(self) -> None:
        """Wake whoever waits for other models to be served."""
        self._offer_changed.set()
        self._offer_changed = anyio.Event()

    def room(self) -> int:
        if math.isinf(self.maker.away):
            return 0
        return max(0, self.depth - sum(len(entry.job.seeds) for entry in self._open))

    async def wait_for_room(self) -> None:
        while not self.room():
            if math.isinf(self.maker.away):
                await anyio.sleep(_LOOKS_AGAIN_SECONDS)
            else:
                await self._freed.wait()

    def refusal(self, job: JobSpec) -> str | None:
        if job.model not in self._known or job.model in self.withdrawn():
            return f"model {job.model} is not served"
        now = monotonic()
        ahead = sum(entry.left for entry in self._open)
        finish = self.pace.finish(now, ahead, job.megapixel_steps, devices=max(1, self.maker.devices))
        away = self.maker.away
        if now + away > job.due:
            return f"no device has a process for {away:.0f} s, and it is due in {job.due - now:.0f} s"
        if finish <= job.due:
            return None
        return f"it would be done in {finish - now:.0f} s and is due in {job.due - now:.0f} s"

    def ended(self, end: IntakeEnd) -> None:
        """Count a job that ended at intake. Its transport has logged why."""
        self.tally.finished(
            JobRecord(
                id=end.id,
                model=end.model,
                transport=end.transport,
                backend="",
                width=0,
                height=0,
                steps=0,
                images=0,
                settlement=end.receipt.settlement,
                reward=end.receipt.reward,
                unit=end.receipt.unit,
                received=end.received,
                acknowledged=monotonic(),
            )
        )

    async def serve(self, offer: Offer) -> None:
        """One job, from its offer to its receipt.

        The border of a job in this process: whatever is thrown on its way is logged and the job is handed back, while
        the others go on. Only cancellation, and what is no `Exception`, gets past.
        """
        entry = _Open(job=offer.job)
        self._open.append(entry)  # not by id: a network may give one job to two connections in a row
        try:
            self.tally.queued(self.jobs)
            record = await self._serve(offer, entry)
            self.tally.finished(record)
            self.finished(record)
        except Exception as error:  # noqa: BLE001  # logged there
            await handed_back(offer.job.id, offer.delivery, error)
        finally:
            self._open.remove(entry)
            self._freed.set()
            self._freed = anyio.Event()
            self.tally.queued(self.jobs)

    async def _serve(self, offer: Offer, entry: _Open) -> JobRecord:
        job, delivery = offer.job, offer.delivery
        making: Making | None = None
        encoded_at: float | None = None
        receipt = Receipt(settlement=Settlement.RETURNED, detail="the network took the job back")
        async with anyio.create_task_group() as scope:
            scope.start_soon(cancel_when, delivery.withdrawn, scope.cancel_scope)
            progress_in, progress_out = anyio.create_memory_object_stream[float](1)
            scope.start_soon(_forward_progress, progress_out, delivery.progress)

            def progress(fraction: float) -> None:
                entry.fraction = fraction
                with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                    progress_in.send_nowait(fraction)  # unless the network is slower than the device, or hears nothing

            with progress_in:
                try:
                    model = self._known.get(job.model)
                    if model is None:
                        raise EngineRefused(f"model {job.model} is not offered any more")
                    making = await self.maker.make(job, model, progress)
                    images = await self._encode(job, making)
                    encoded_at = monotonic()
                    entry.fraction = 1.0
                    receipt = await submit(offer, images, self.uploader)
                except BadJob as error:
                    logger.warning("Job {} is given up: {}", job.id, error)
                    receipt = await delivery.fail(error.public)
                except LateJob as error:
                    logger.error("Job {} is given up: {}", job.id, error)
                    receipt = await delivery.fail(COULD_NOT)
                except (EngineError, DeviceUnusable) as error:
                    logger.error("Job {} goes back to the network: {}", job.id, error)
                    receipt = await delivery.give_back(str(error))
                except Exception as error:  # noqa: BLE001  # logged there; what comes after a receipt still follows
                    receipt = await handed_back(job.id, delivery, error)
            scope.cancel_scope.cancel()
        now = monotonic()
        if making is not None and encoded_at is not None:
            timing = making.made.timing
            self.pace = self.pace.measured(job.megapixel_steps, timing.engine_seconds, now - timing.denoised)
        return _record(offer, making, encoded_at, receipt, now)

    async def _encode(self, job: JobSpec, making: Making) -> Sequence[EncodedImage]:
        encoded: dict[int, EncodedImage] = {}

        async def one(index: int) -> None:
            encoded[index] = await self.encoder.encode(
                making.images[index], job.format, index=index, seed=job.seeds[index].value
            )

        async with anyio.create_task_group() as pool:
            for index in range(len(making.images)):
                pool.start_soon(one, index)
        return [encoded[index] for index in range(len(making.images))]


async def _forward_progress(
    fractions: anyio.abc.ObjectReceiveStream[float], tell: Callable[[float], Awaitable[None]]
) -> None:
    """Tell the network how far a job is. When that goes wrong no more is told, and the job is made all the same."""
    try:
        async with fractions:
            async for fraction in fractions:
                await tell(fraction)
    except Exception as error:  # noqa: BLE001  # no picture is worth less for it
        logger.opt(exception=error).error("Progress is told no further: an unexpected {}.", type(error).__name__)


def _record(offer: Offer, making: Making | None, encoded_at: float | None, receipt: Receipt, now: float) -> JobRecord:
    job = offer.job
    handed_in = receipt.settlement in {Settlement.PAID, Settlement.UNPAID, Settlement.UNACKNOWLEDGED}
    return JobRecord(
        id=job.id,
        model=job.model,
        transport=offer.transport,
        backend=making.plan.backend if making else "",
        width=job.width,
        height=job.height,
        steps=job.steps,
        images=len(job.seeds) if handed_in else 0,
        settlement=receipt.settlement,
        reward=receipt.reward,
        unit=receipt.unit,
        received=job.received,
        started=making.made.timing.started if making else None,
        denoised=making.made.timing.denoised if making else None,
        encoded=encoded_at,
        acknowledged=now,
    )
