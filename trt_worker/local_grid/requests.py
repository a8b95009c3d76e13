"""What a customer asks the local grid for, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One image request to the grid; None leaves a knob to the model's recipe or the server's guess."""

    model: str = "shapes-tiny"
    prompt: str = "a red circle"
    negative_prompt: str | None = None
    n: int = 1  # images, 1..4
    width: int | None = None  # pixels; None: 128, or matched to the source image
    height: int | None = None
    steps: int | None = None
    cfg: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    denoise: float | None = None
    seed: int | None = None  # of the first image, 0..2**53 - 1; None: drawn
    ext: str = "webp"  # webp, png or jpg
    source_image: bytes | None = field(default=None, repr=False)  # encoded, served by the storage
    source_type: str = "image/png"
    loras: Sequence[Mapping[str, Any]] = ()
    recipe: str | None = None  # by name; None: the model's default
    probe: bool = False  # shaped as a validator's probe: deterministic, no seeds, acknowledged with den 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedImage:
    """One image as the worker handed it in."""

    index: int
    data: bytes = field(repr=False)
    content_type: str
    sha256: str  # what the worker claimed
    seed: int | None

    @property
    def is_intact(self) -> bool:
        """Whether the claimed digest is that of the bytes; the coordinator itself does not look."""
        return hashlib.sha256(self.data).hexdigest() == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    """How one grid job ended for its customer."""

    job_id: str
    status: int  # HTTP: 200, 502 (worker error or rejected result), 503 (given up), 504 (timed out)
    message: str = ""
    images: tuple[UploadedImage, ...] = ()
    den: float = 0.0
    worker: str = ""  # connection name
    seconds: float = 0.0  # last dispatch to acknowledgement
    requeues: int = 0
    signature: str | None = None  # `worker_sig` of the done frame, unchecked

    @property
    def signed_text(self) -> str:
        """What `signature` must sign: EIP-191 text over the job and the digests in index order."""
        digests = ",".join(f'"{image.sha256}"' for image in self.images)
        return f"aipg-job:{self.job_id}:{hashlib.sha256(f'[{digests}]'.encode()).hexdigest()}"


class Handle(Generic[Result]):
    """A request under way."""

    def __init__(self, job_id: str, payload: Mapping[str, Any]) -> None:
        self.id = job_id
        self.payload = payload  # as the worker gets it (grid) or as it was sent (Horde)
        self.progress: list[int] = []  # percentages reported so far
        self._dispatched = anyio.Event()
        self._ended = anyio.Event()
        self._result: Result | None = None

    async def dispatched(self) -> None:
        """Return once a worker has the job."""
        await self._dispatched.wait()

    async def result(self) -> Result:
        """Wait for the end."""
        await self._ended.wait()
        assert self._result is not None
        return self._result

    @property
    def has_ended(self) -> bool:
        """Whether `result` returns at once."""
        return self._ended.is_set()

    def mark_dispatched(self) -> None:
        """A worker has it; called by the server."""
        self._dispatched.set()

    def end(self, result: Result) -> None:
        """Hand the result over; called by the server. A second result is not taken."""
        if not self._ended.is_set():
            self._result = result
            self._ended.set()


GridHandle = Handle[GridResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeRequest:
    """One request to the Horde, as `POST /generate/async` takes it."""

    prompt: str = "a red circle"
    models: Sequence[str] = ("shapes-tiny",)
    n: int = 1
    width: int = 128  # pixels, multiple of 64
    height: int = 128
    steps: int = 12
    sampler_name: str | None = None
    cfg_scale: float | None = None
    seed: str | None = None
    source_image: bytes | None = field(default=None, repr=False)  # encoded
    source_processing: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # anything else of `params`, wins over the above
    extra: Mapping[str, Any] = field(default_factory=dict)  # anything else of the request, wins over the above
    key: str | None = None  # who asks; None: the customer account


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeImage:
    """One finished image of a Horde request."""

    id: str
    img: str = field(repr=False)  # address, or base64 for requests with r2 false
    data: bytes | None = field(repr=False)  # None: the upload is missing, or the text is no base64
    seed: str
    censored: bool
    state: str
    metadata: Sequence[Mapping[str, Any]]
    worker_name: str
    kudos: float  # what the worker was told


@dataclass(frozen=True, slots=True, kw_only=True)
class HordeResult:
    """How one Horde request ended."""

    request_id: str
    done: bool
    faulted: bool
    images: tuple[HordeImage, ...]
    restarted: int  # images that had to be handed out again
    seconds: float  # submission to the last image


HordeHandle = Handle[HordeResult]
