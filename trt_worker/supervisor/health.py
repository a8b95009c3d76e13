"""What of the rig is out of use for its failures: told and ended by probes, and known to whoever offers models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Protocol

import anyio
import anyio.to_thread
from loguru import logger

from trt_engines.backend import EngineSpec
from trt_engines.model import Model
from trt_worker.concurrency import Clock, cancel_when
from trt_worker.plan.quarantine import Record, Suspect, blamed, postponed, probed, withdrawn
from trt_worker.plan.route import denoiser_buckets
from trt_worker.supervisor.probe import Inconclusive, ProbedDevice, Trial, probe

FAILURES_IN_A_ROW = 3
"""Jobs of a model that fail with all that can run it, none being made between them, before it is withdrawn although
probes come out well: whatever they fail with, it would go on costing customers."""

_LONGEST_REASON = 300  # characters of what an engine failed with


class Device(ProbedDevice, Protocol):
    """A device as its health is looked after."""

    index: int

    @property
    def usable(self) -> bool: ...

    async def hand_over(self, models: Collection[Model], *, anew: bool = False) -> None: ...


class Health:
    """Quarantines of engines and of whole models.

    Args:
        devices: of the rig.
        max_rows: images that share a step, as for jobs.
        limit: recent faults of an engine that no job explains before nothing is sent to it.
        changed: called when `withdrawn` has changed.
        damage: what can be seen to be wrong with a model's files; empty: nothing. It may take long and is asked in a
            thread. None: nobody looks.
        clock: what waits of probes count by.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        max_rows: int,
        limit: int = 2,
        changed: Callable[[], None] = lambda: None,
        damage: Callable[[Model], str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.withdrawn: frozenset[str] = frozenset()
        """Models that nothing here can run now: they are not to be offered."""
        self._devices = {device.index: device for device in devices}
        self._max_rows = max_rows
        self._limit = limit
        self._changed = changed
        self._damage = damage
        self._clock = clock or Clock(now=monotonic)
        self._records: dict[Suspect, Record] = {}
        self._trials: dict[Suspect, Trial] = {}
        self._failed_everywhere: Counter[str] = Counter()  # jobs of a model in a row
        self._worked: set[Suspect] = set()  # whole models that a job was made with
        self._turns: defaultdict[Suspect, anyio.Lock] = defaultdict(anyio.Lock)
        self._news = anyio.Event()  # a probe may be due earlier

    @property
    def barred(self) -> Mapping[Suspect, Record]:
        """What nothing but probes is sent to."""
        return {suspect: record for suspect, record in self._records.items() if record.barred}

    def refusal(self, suspect: Suspect) -> str | None:
        """Why a job is not to be sent there; None: it may be."""
        for one in (suspect.whole, suspect):
            if (record := self._records.get(one)) is not None and record.barred:
                return f"{one.engine or one.model} is in quarantine: {record.reason}"
        return None

    def blame(self, suspect: Suspect, trial: Trial, reason: str, *, certain: bool = True) -> None:
        """An engine failed with a job that another one made.

        Args: certain: False: the job may have brought what its arithmetic cannot hold; a probe has to say so, too.
        """
        reason = _line(reason)
        for one in (suspect, suspect.whole):
            self._trials[one] = trial if one.engine else _native(trial)
            old = self._records.get(one, Record())
            self._set(one, blamed(old, self._clock.now(), reason, limit=self._limit, bar=certain and bool(one.engine)))

    def failed_everywhere(self, model: Model, reason: str) -> None:
        """A job has failed with all that could run it, and was not to blame."""
        self._failed_everywhere[model.name] += 1
        times, rest = divmod(self._failed_everywhere[model.name], FAILURES_IN_A_ROW)
        if not rest:
            jobs = self._failed_everywhere[model.name]
            self.withhold(
                model, f"{jobs} jobs in a row have failed with all that can run it: {reason}", before=times - 1
            )

    def withhold(self, model: Model, reason: str, device: int | None = None, *, before: int = 0) -> None:
        """Something is wrong with a model whatever probes say: it gets no job until the next one comes out well.

        Args:
            device: where; None: everywhere.
            before: how often in a row that was so before; the next probe waits the longer.
        """
        reason = _line(reason)
        trial = Trial(model=model, size=(model.native_width, model.native_height))
        for one in self._devices.values():
            for backend in one.ladder if device in {None, one.index} else ():
                suspect = Suspect(device=one.index, backend=backend.name, model=model.name)
                self._trials[suspect] = trial
                if not self._records.get(suspect, Record()).barred:
                    self._records[suspect] = probed(Record(failed_probes=before), self._clock.now(), reason)
                    self._forget_engines(suspect)
        self._news.set()
        self._settle(model)

    def retry(self) -> None:
        """Probe all that is barred as soon as possible: the operator may have mended something."""
        now = self._clock.now()
        self._records |= {suspect: replace(record, probe_at=now) for suspect, record in self.barred.items()}
        self._news.set()

    def made(self, suspect: Suspect) -> None:
        """A job was made there, so whatever failed before, it was not the whole model."""
        self._worked.add(suspect.whole)
        del self._failed_everywhere[suspect.model]
        record = self._records.get(suspect.whole)
        if record is not None and not record.barred:
            del self._records[suspect.whole]

    async def verdict(self, suspect: Suspect, trial: Trial, since: float) -> str | None:
        """Whether an engine that a job has failed with works: probed now, unless it was since that failure.

        When it does not, the whole model is probed at its native size, too.

        Args: since: seconds on the clock.
        Returns: what it fails with; empty: it works; None: there was no telling.
        """
        failure = await self._probe(suspect, trial, since)
        if failure and suspect.engine:
            native = _native(trial)
            await self._probe(suspect.whole, native, since, known=failure if native == trial else "")
        return failure

    async def run(self) -> None:
        """Probe what is due, for ever."""
        while True:
            self._news = anyio.Event()
            await self.probe_due()
            due = [at for suspect, record in self._records.items() if (at := self._due(suspect, record)) is not None]
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(cancel_when, self._news, waiting.cancel_scope)
                if due:
                    await self._clock.sleep(max(min(due) - self._clock.now(), 0.0))
                    waiting.cancel_scope.cancel()

    async def probe_due(self) -> None:
        """Probe what is due by now, on every device at once."""
        now = self._clock.now()
        due = [
            suspect
            for suspect, record in self._records.items()
            if (at := self._due(suspect, record)) is not None and at <= now
        ]
        async with anyio.create_task_group() as devices:
            for device in self._devices.values():
                here = [
                    one
                    for backend in device.ladder
                    for one in sorted(due, key=str)
                    if (one.device, one.backend) == (device.index, backend.name)
                ]
                if here:
                    devices.start_soon(self._probe_in_turn, here, now)

    async def _probe_in_turn(self, suspects: Sequence[Suspect], now: float) -> None:
        """Probe some of a device, the best backend first: loading the next may take it long."""
        for suspect in suspects:
            if self._due(suspect, self._records.get(suspect, Record())) is not None:
                await self._probe(suspect, self._trials[suspect], now)

    def _due(self, suspect: Suspect, record: Record) -> float | None:
        """When a probe is due; None: it is not, or its whole model has to work first."""
        whole = self._records.get(suspect.whole)
        if suspect.engine and whole is not None and whole.barred:
            return None
        return record.probe_at

    async def _probe(self, suspect: Suspect, trial: Trial, since: float, *, known: str = "") -> str | None:
        """What a suspect fails with, see `verdict`. Args: known: what this very trial has just failed with."""
        self._trials[suspect] = trial
        async with self._turns[suspect]:
            record = self._records.get(suspect, Record())
            if record.probed is not None and record.probed >= since:
                return record.reason if record.barred else ""
            try:
                failure = _line(known or await self._failure(suspect, trial))
            except Inconclusive as error:
                logger.info("A probe of {} said nothing: {}", suspect, error)
                if record.probe_at is not None:
                    self._set(suspect, postponed(record, self._clock.now()))
                return None
            self._set(suspect, probed(self._records.get(suspect, record), self._clock.now(), failure))
            return failure

    async def _failure(self, suspect: Suspect, trial: Trial) -> str:
        device = self._devices[suspect.device]
        if not device.usable:
            raise Inconclusive(f"device {suspect.device} has no process and gets none")
        look = self._damage if not suspect.engine else None
        if look is not None and (damage := await anyio.to_thread.run_sync(look, trial.model)):
            return damage
        return await probe(device, suspect.backend, trial, max_rows=self._max_rows, now=self._clock.now())

    def _set(self, suspect: Suspect, record: Record) -> None:
        """Take over a record, say what it changes, and see whether its model can still be served."""
        before = self._records.get(suspect, Record())
        self._records[suspect] = record
        if record.barred and not suspect.engine:
            self._forget_engines(suspect)
        if record.barred and not before.barred:
            assert record.probe_at is not None  # a quarantine has an end
            wait = record.probe_at - self._clock.now()
            logger.error("{} is in quarantine: {}. It is tried again in {:.0f} s.", suspect, record.reason, wait)
        elif before.barred and not record.barred:
            logger.success("{} works again: its quarantine ends.", suspect)
        elif record.barred and record.failed_probes > before.failed_probes:
            logger.warning("{} stays in quarantine, a probe failed: {}", suspect, record.reason)
        self._news.set()
        self._settle(self._trials[suspect].model)

    def _forget_engines(self, whole: Suspect) -> None:
        """What spoke against single engines of a model that does not work at all was no doing of theirs."""
        for one in [one for one in self._records if one.engine and one.whole == whole]:
            del self._records[one]

    def _settle(self, model: Model) -> None:
        able = {model.name: self._able(model)}
        gone = withdrawn(able, self.barred)
        now = (self.withdrawn - {model.name}) | gone
        if now == self.withdrawn:
            return
        self.withdrawn = now
        if gone:
            reasons = "; ".join(dict.fromkeys(f"{one}: {self._records[one].reason}" for one in able[model.name]))
            logger.error(
                "{} is not offered any more: nothing here can run it now ({}). It is tried again from time to time, "
                "and offered when it works.",
                model.name,
                reasons,
            )
        else:
            logger.success("{} is offered again: it works.", model.name)
        self._changed()

    def _able(self, model: Model) -> list[Suspect]:
        """Whatever can run a model, whole: by its backends' word, or because it has."""
        smallest = denoiser_buckets(model, model.native_width, model.native_height, 1)[0]
        spec = EngineSpec(model=model, network=model.facts.passes[0].denoiser, bucket=smallest)
        return [
            suspect
            for device in self._devices.values()
            if device.usable
            for backend in device.ladder
            if (suspect := Suspect(device=device.index, backend=backend.name, model=model.name)) in self._worked
            or backend.refuses(spec) is None
        ]


def _line(reason: str) -> str:
    """What a library has said, on one line of a log."""
    return " ".join(reason.split())[:_LONGEST_REASON]


def _native(trial: Trial) -> Trial:
    return Trial(model=trial.model, size=(trial.model.native_width, trial.model.native_height))
