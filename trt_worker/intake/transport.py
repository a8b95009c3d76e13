"""The one interface behind which both networks live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from anyio.abc import ObjectSendStream, TaskStatus

from trt_engines.model import Model
from trt_worker.delivery import Offer
from trt_worker.job import JobSpec


class Gate(Protocol):
    """What a transport asks before it takes work: implemented by the app from measured speed and queue."""

    def models_served(self) -> Mapping[str, Model]:
        """Models that can be served now, by our spelling."""

    async def models_changed(self) -> None:
        """Return once `models_served()` says something else than at this call."""

    def room(self) -> int:
        """Images that may still be taken before the queue is as deep as it pays to be; 0 means wait."""

    async def wait_for_room(self) -> None:
        """Return when `room()` is above 0."""

    def refusal(self, job: JobSpec) -> str | None:
        """Why this job must not be taken (it would be late, its model is gone), or None."""


class Transport(Protocol):
    """One network this worker earns on."""

    name: str

    async def run(self, offers: ObjectSendStream[Offer], *, task_status: TaskStatus[None] = ...) -> None:
        """Take jobs until `stop_taking`, then return once every job taken has its receipt.

        Calls `task_status.started()` once the first connection or poll has succeeded, or once it is clear that the
        transport keeps trying. Owns its sessions and tasks. Reconnects by itself.

        Raises: TransportClosed: this network will not pay any more (wrong key, retired server); says what to change.
        """

    def stop_taking(self) -> None:
        """Take no further job. Idle connections close at once, busy ones after their acknowledgement."""
