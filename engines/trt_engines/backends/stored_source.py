"""Engines that were built for this rig's cards, as they lie in the store.

Which of them serves a network is decided from manifests alone. Loading one needs a card, and was never run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from trt_engines.backend import EngineSpec
from trt_engines.backends.footprint import built_engine, loading_bytes
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.device import Device
from trt_engines.errors import EngineRefused, OutOfMemory, StaleEngine
from trt_engines.interface import Interface
from trt_engines.machine_memory import machine_memory
from trt_engines.residency import Footprint, Memory
from trt_engines.sessions.libraries import INSTALL, Library, TensorRt, TensorRtRtx
from trt_engines.sessions.session import ProfileShapes, ShapeRange, covering
from trt_engines.sessions.tensorrt import TensorRtContext, TensorRtSession
from trt_engines.sessions.validity import unfit
from trt_engines.store.errors import DamagedEngine
from trt_engines.store.identity import Identity
from trt_engines.store.manifest import PLAN
from trt_engines.store.store import Store
from trt_engines.store.stored import FileState, Stored

BUILD = "./horde-bridge.sh build"

_DISTRIBUTIONS = {
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


_Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Of the inputs of a bucket, by name."""


def installed_version(library: str) -> str | None:
    """Of "tensorrt-rtx" or "tensorrt", which is not loaded; None: it is not installed."""
    for name in _DISTRIBUTIONS[library]:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def serving(engines: Sequence[Stored], spec: EngineSpec, library: str, installed: str, sm: int) -> Stored:
    """The engine that runs a network on a card: of those that can, the one that was built last.

    Args:
        library, installed: what would run it, and its version.
        sm: compute capability of the card, times ten.
    Raises: EngineRefused: there is none; the message says what to do.
    """
    network, again = f"{spec.model.name}/{spec.network}", f"{BUILD} {spec.model.name}"
    own = [one for one in engines if _is_of(one, spec, library)]
    if not own:
        if any(_is_of_another(one, spec, library) for one in engines):
            raise EngineRefused(
                f"the {library} engine of {network} was built of other weights, so the checkpoint has changed: {again}"
            )
        raise EngineRefused(f"no {library} engine of {network} was built: {again}")
    certified = [one for one in own if one.manifest.passed]
    if not certified:
        raise EngineRefused(f"the {library} engine of {network} failed its fidelity certificate, so it is not served")
    reasons = [unfit(one.manifest.identity, library, installed, sm) for one in certified]
    fit = [one for one, reason in zip(certified, reasons, strict=True) if reason is None]
    if not fit:
        raise EngineRefused(f"the {library} engine of {network} cannot run here: {reasons[-1]} ({again})")
    names = {tensor.name for tensor in spec.ports.inputs}
    understood = [one for one in fit if _inputs(one.manifest.identity) == names]
    if not understood:
        other = ", ".join(sorted(_inputs(fit[-1].manifest.identity) ^ names))
        raise EngineRefused(f"the {library} engine of {network} and this worker differ in the inputs {other}")
    covers = [one for one in understood if _covers(one.manifest.identity, spec)]
    if not covers:
        raise EngineRefused(
            f"the {library} engine of {network} has no profile for {spec.bucket.label}: "
            f"build one for such jobs ({BUILD} --help)"
        )
    return max(covers, key=lambda one: (one.manifest.created, one.digest))


class StoredSource:
    """The engines of a store that one library built, for one card.

    Args:
        installed: version of the library here; None: it is not installed.
        sm: compute capability of the card, times ten; None: this device has none.
        open_device: makes the device, in the process that serves.
        host_memory: bytes of the machine's memory that are free.
    """

    def __init__(
        self,
        library: str,
        store: Store,
        *,
        installed: str | None,
        sm: int | None,
        open_device: Callable[[], Device] = CudaDevice,
        host_memory: Callable[[], int] = lambda: machine_memory().free,
    ) -> None:
        self._library = library
        self._store = store
        self._installed = installed
        self._sm = sm
        self._open_device = open_device
        self._host_memory = host_memory
        self._verified: set[FileState] = set()  # plans whose every byte was compared
        self._streamed: dict[str, int] = {}  # bytes of an engine's weights that stay in host memory, by its digest
        self._measured: dict[tuple[str, _Shapes], int] = {}  # activations of contexts that were made
        self._changed = -1  # when the store had what is listed, in nanoseconds
        self._listed: tuple[Stored, ...] = ()

    @cached_property
    def device(self) -> Device:
        return self._open_device()

    @property
    def memory(self) -> Memory:
        return Memory.CARD

    def refuses(self, spec: EngineSpec) -> str | None:
        try:
            self._serving(spec)
        except EngineRefused as refusal:
            return str(refusal)
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        """As the builder told, until there was a context for these shapes, which tells what it needs."""
        found = self._serving(spec)
        interface = _interface(found.manifest.identity, spec)
        told = built_engine(
            found.manifest.files[PLAN].size,
            found.manifest.memory,
            _profiles(found.manifest.identity),
            interface,
            streams=_streams(found.manifest.identity),
        )
        activations = self._measured.get((found.digest, _shapes(interface)), told.activations)
        return replace(told, activations=activations, engine=found.digest)

    def stream_weights(self, spec: EngineSpec, size: int) -> None:
        self._streamed[self._serving(spec).digest] = size

    def engine_of(self, spec: EngineSpec) -> str:
        return self._serving(spec).digest

    def open(self, spec: EngineSpec) -> TensorRtSession:
        found, label = self._serving(spec), f"{spec.model.name}/{spec.network}"
        self._require_host_memory(found, label)
        try:
            with found.mapped(PLAN, self._verified) as plan:
                session = self._session(found, plan, label)
        except DamagedEngine as damage:
            raise StaleEngine(f"{damage}: {BUILD} {spec.model.name}") from damage
        with suppress(OSError):  # a store that cannot be written cannot be pruned either
            found.mark_used()
        return session

    def _session(self, found: Stored, plan: memoryview, label: str) -> TensorRtSession:
        card = self.device.properties  # the device is made first: the library uses the one that is current
        if card.sm is None:
            raise EngineRefused(f"{card.name} is no CUDA device")

        def made(context: TensorRtContext) -> None:
            self._measured[found.digest, _shapes(context.interface)] = context.activation_bytes

        return TensorRtSession(
            self._open_library(found),
            plan,
            label=label,
            identity=found.manifest.identity,
            sm=card.sm,
            streamed=self._streamed.get(found.digest, 0),
            made=made,
        )

    def _open_library(self, found: Stored) -> Library:
        """The library, with what it compiled for this engine on such a card."""
        if self._library == "tensorrt":
            return TensorRt()
        card = self.device.properties
        return TensorRtRtx(self._store.kernels(found.digest, f"{self._installed}", f"{card.name} SM{card.sm}"))

    def _require_host_memory(self, found: Stored, label: str) -> None:
        """Raises: OutOfMemory: before anything is read that would make the machine swap."""
        size, streams = found.manifest.files[PLAN].size, _streams(found.manifest.identity)
        needed, free = loading_bytes(size, streams=streams), self._host_memory()
        if needed > free:
            raise OutOfMemory(
                f"{label}: loading its engine takes {needed / 1e9:.1f} GB of the machine's own memory and "
                f"{free / 1e9:.1f} GB are free; stop other programs, or serve fewer models"
            )

    def _serving(self, spec: EngineSpec) -> Stored:
        if self._sm is None:
            raise EngineRefused("this device has no NVIDIA card")
        if self._installed is None:
            raise EngineRefused(f"{self._library} is not installed: {INSTALL[self._library]}")
        return serving(self._engines(), spec, self._library, self._installed, self._sm)

    def _engines(self) -> Sequence[Stored]:
        """What the store has, read again when engines came or went."""
        try:
            changed = self._store.engines.stat().st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed != self._changed:
            self._listed, self._changed = self._store.sound(), changed
        return self._listed


def _is_of(stored: Stored, spec: EngineSpec, library: str) -> bool:
    """Whether an engine has the weights of a model's network, whatever the model was called when it was built."""
    identity, files = stored.manifest.identity, spec.files
    return (
        files is not None
        and identity.weights == files.digest
        and (identity.architecture, identity.component) == (spec.model.architecture, spec.network)
        and identity.library == library
    )


def _is_of_another(stored: Stored, spec: EngineSpec, library: str) -> bool:
    """Whether an engine was built of this model's name and has other weights."""
    identity = stored.manifest.identity
    return (
        spec.model.name in stored.manifest.models
        and (identity.architecture, identity.component) == (spec.model.architecture, spec.network)
        and identity.library == library
        and not _is_of(stored, spec, library)
    )


def _interface(identity: Identity, spec: EngineSpec) -> Interface:
    """The tensors in the bucket, in the sizes of the inputs that the engine was built for."""
    sizes = {one.name: one.max for one in identity.profiles[0]}
    return spec.ports.sized(sizes).at(spec.bucket)


def _covers(identity: Identity, spec: EngineSpec) -> bool:
    return covering(_profiles(identity), _interface(identity, spec)) is not None


def _streams(identity: Identity) -> bool:
    return bool(identity.flags.get("weight_streaming", False))


def _shapes(interface: Interface) -> _Shapes:
    return tuple((one.name, one.shape) for one in interface.inputs)


def _inputs(identity: Identity) -> set[str]:
    return {one.name for profile in identity.profiles for one in profile}


def _profiles(identity: Identity) -> tuple[ProfileShapes, ...]:
    return tuple(
        {one.name: ShapeRange(min=one.min, opt=one.opt, max=one.max) for one in profile}
        for profile in identity.profiles
    )
