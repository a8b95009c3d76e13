"""What supervisor and device process say to each other: a small structured header and raw bytes, nothing pickled.

On the wire a frame is two little-endian uint32, the sizes of header and body, then the header as MessagePack and the
body as it is (pixels, or an encoded source image).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from trt_engines.model import Model
from trt_worker.errors import DeviceLost, FrameTooLarge
from trt_worker.job import JobSpec

PREFIX: Final = struct.Struct("<II")
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 28

DEVICE_FAULT = 70
"""Exit status of a device process whose device reported an error that only another process is rid of."""

T = TypeVar("T")


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """First frame to a device process: what it needs to know for its whole life."""

    index: int
    backends: tuple[str, ...]
    threads: int
    max_rows: int
    memory: int  # bytes of its card that may be taken
    machine_memory: int  # of the machine's own, by backends that compute on the processor
    models: tuple[Model, ...]  # the list that the supervisor offers from: the device looks for none itself
    log_directory: str | None
    verbosity: int
    sm: int | None = None  # compute capability of its card, times ten
    environment: dict[str, str] = {}  # what shows it its card and no other


class Models(msgspec.Struct, frozen=True, tag="models"):
    """Models that jobs may ask for from now on, beside those that were named before."""

    models: tuple[Model, ...]


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Make one job; the body is the encoded source image, if there is one."""

    job: JobSpec  # without its source; its id is the run's: a job that comes twice is two runs
    backend: str


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """Nobody waits for this job any more."""

    id: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The device process takes jobs now."""

    pid: int


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """An engine is being loaded: nothing else will be heard until that is done, which may take minutes."""

    engine: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """That engine is loaded: the device is heard as often as before."""

    engine: str


class LoadTime(msgspec.Struct, frozen=True):
    """What loading a model's networks takes a device, as it was the last time."""

    backend: str
    model: str
    seconds: float


class Resident(msgspec.Struct, frozen=True, tag="resident"):
    """The models of which something is in the device's memory have changed, or what loading one of them takes."""

    models: tuple[str, ...]
    load_times: tuple[LoadTime, ...] = ()  # of whatever was loaded since the process started


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far one job is, 0..1; also the sign of life while the device works."""

    id: str
    fraction: float


class Pixels(msgspec.Struct, frozen=True, tag="pixels"):
    """One finished image of a job; the body is uint8 [height, width, 3]."""

    id: str
    index: int
    width: int
    height: int


class Made(msgspec.Struct, frozen=True, tag="made"):
    """All images of a job have been sent; times are time.monotonic() seconds."""

    id: str
    started: float
    denoised: float
    decoded: float
    engine_seconds: float  # share of engine calls, by rows
    mean_rows: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A job ended without its images."""

    id: str
    kind: str
    """What speaks for whom.

    `bad_job`, `bad_source`, `unservable`: the job is at fault, nobody can make it. `late`: nobody can in time.
    `unsuited`: another backend may. `fault`: an engine failed. `not_finite`: values came that are no numbers, be it the
    engine's doing or the job's. `not_at_hand`: the device was never told of the model or backend, which is the rig's
    fault alone. `unexpected`: something that nobody foresaw, which is not held against the engine; another may.
    """

    backend: str
    engine: str
    message: str


class Totals(msgspec.Struct, frozen=True, tag="totals"):
    """Running totals of a device process since it started."""

    calls: int
    rows: int  # images, summed over calls
    engine_seconds: float
    loop_seconds: float  # the denoise loop, engine calls included
    megapixel_steps: float


ToDevice = Configure | Models | Run | Withdraw
FromDevice = Ready | Loading | Loaded | Resident | Progress | Pixels | Made | Failed | Totals


def _plain(value: Any) -> Any:
    """What a frame's value is on the wire, where MessagePack does not know its type."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise NotImplementedError(f"a frame with a {type(value).__name__}")


def _typed(wanted: type, value: Any) -> Any:
    if wanted is Path:
        return Path(value)
    raise NotImplementedError(f"a frame with a {wanted.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_to_device: Final = msgspec.msgpack.Decoder(ToDevice, dec_hook=_typed)
_from_device: Final = msgspec.msgpack.Decoder(FromDevice)


def pack(header: ToDevice | FromDevice, body_bytes: int = 0) -> bytes:
    """Prefix and header of a frame whose body is sent right after it.

    Raises: FrameTooLarge: the other end would take it for another protocol. Nothing is to be sent then.
    """
    encoded = _encoder.encode(header)
    if len(encoded) > MAX_HEADER or body_bytes > MAX_BODY:
        raise FrameTooLarge(
            f"a {type(header).__name__} of {len(encoded)} + {body_bytes} bytes: a frame has at most {MAX_HEADER} bytes "
            f"of header and {MAX_BODY} of body"
        )
    return PREFIX.pack(len(encoded), body_bytes) + encoded


def unpack_to_device(encoded: bytes) -> ToDevice:
    """Raises: DeviceLost: the header is none of ours."""
    header: ToDevice = _decoded(_to_device.decode, encoded)
    return header


def unpack_from_device(encoded: bytes) -> FromDevice:
    """Raises: DeviceLost: the header is none of ours."""
    header: FromDevice = _decoded(_from_device.decode, encoded)
    return header


def sizes(prefix: bytes) -> tuple[int, int]:
    """Header and body size of a frame.

    Raises: DeviceLost: a size is out of all reason, so the other end is not speaking this protocol.
    """
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER or body > MAX_BODY:
        raise DeviceLost(f"frame of {header} + {body} bytes: the other end does not speak this protocol")
    return header, body


def _decoded(decode: Callable[[bytes], T], encoded: bytes) -> T:
    try:
        return decode(encoded)
    except msgspec.MsgspecError as error:
        raise DeviceLost(f"unreadable frame: {error}") from error
