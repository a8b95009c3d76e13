"""Engines that were built for this rig's cards, as they lie in the store.

Which of them serves a network is decided from manifests alone. Loading one needs a card, and was never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version

from trt_engines.backend import EngineSpec
from trt_engines.devices.cuda import CudaDevice
from trt_engines.devices.device import Device
from trt_engines.errors import EngineRefused, StaleEngine
from trt_engines.interface import interface_of
from trt_engines.residency import Footprint
from trt_engines.sessions.libraries import Library, TensorRt, TensorRtRtx
from trt_engines.sessions.session import ProfileShapes, ShapeRange, covering
from trt_engines.sessions.tensorrt import TensorRtSession
from trt_engines.sessions.validity import unfit
from trt_engines.store.errors import DamagedEngine
from trt_engines.store.identity import Identity
from trt_engines.store.manifest import PLAN
from trt_engines.store.store import Store
from trt_engines.store.stored import Stored

BUILD = "./horde-bridge.sh build"

_LIBRARIES: dict[str, Callable[[], Library]] = {"tensorrt-rtx": TensorRtRtx, "tensorrt": TensorRt}
_DISTRIBUTIONS = {
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


def installed_version(library: str) -> str | None:
    """Of "tensorrt-rtx" or "tensorrt", which is not loaded; None: it is not installed."""
    for name in _DISTRIBUTIONS[library]:
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def serving(engines: Iterable[Stored], spec: EngineSpec, library: str, installed: str, sm: int) -> Stored:
    """The engine that runs a network on a card: of those that can, the one that was built last.

    Args:
        library, installed: what would run it, and its version.
        sm: compute capability of the card, times ten.
    Raises: EngineRefused: there is none; the message says what to do.
    """
    network, again = f"{spec.model.name}/{spec.component.value}", f"{BUILD} {spec.model.name}"
    own = [one for one in engines if _is_of(one, spec, library)]
    if not own:
        raise EngineRefused(f"no {library} engine of {network} was built: {again}")
    certified = [one for one in own if one.manifest.passed]
    if not certified:
        raise EngineRefused(f"the {library} engine of {network} failed its fidelity certificate, so it is not served")
    reasons = [unfit(one.manifest.identity, library, installed, sm) for one in certified]
    fit = [one for one, reason in zip(certified, reasons, strict=True) if reason is None]
    if not fit:
        raise EngineRefused(f"the {library} engine of {network} cannot run here: {reasons[-1]} ({again})")
    names = {tensor.name for tensor in interface_of(spec).inputs}
    understood = [one for one in fit if _inputs(one.manifest.identity) == names]
    if not understood:
        other = ", ".join(sorted(_inputs(fit[-1].manifest.identity) ^ names))
        raise EngineRefused(f"the {library} engine of {network} and this worker differ in the inputs {other}")
    covers = [one for one in understood if covering(_profiles(one.manifest.identity), interface_of(spec)) is not None]
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
    """

    def __init__(
        self,
        library: str,
        store: Store,
        *,
        installed: str | None,
        sm: int | None,
        open_device: Callable[[], Device] = CudaDevice,
    ) -> None:
        self._library = library
        self._store = store
        self._installed = installed
        self._sm = sm
        self._open_device = open_device
        self._changed = -1  # when the store had what is listed, in nanoseconds
        self._listed: tuple[Stored, ...] = ()

    @cached_property
    def device(self) -> Device:
        return self._open_device()

    def refuses(self, spec: EngineSpec) -> str | None:
        try:
            self._serving(spec)
        except EngineRefused as refusal:
            return str(refusal)
        return None

    def footprint(self, spec: EngineSpec) -> Footprint:
        """What a context allocates beyond its tensors is known only once there is one."""
        weights = self._serving(spec).manifest.files[PLAN].size
        return Footprint(weights=weights, tensors=interface_of(spec).bytes, engine=self.engine_of(spec))

    def engine_of(self, spec: EngineSpec) -> str:
        return self._serving(spec).digest

    def open(self, spec: EngineSpec) -> TensorRtSession:
        found = self._serving(spec)
        try:
            plan = found.read(PLAN)
        except DamagedEngine as damage:
            raise StaleEngine(f"{damage}: {BUILD} {spec.model.name}") from damage
        sm = self.device.properties.sm  # the device is made first: the library uses the one that is current
        if sm is None:
            raise EngineRefused(f"{self.device.properties.name} is no CUDA device")
        label = f"{spec.model.name}/{spec.component.value}"
        session = TensorRtSession(self._loaded, plan, label=label, identity=found.manifest.identity, sm=sm)
        with suppress(OSError):  # a store that cannot be written cannot be pruned either
            found.mark_used()
        return session

    @cached_property
    def _loaded(self) -> Library:
        return _LIBRARIES[self._library]()

    def _serving(self, spec: EngineSpec) -> Stored:
        if self._sm is None:
            raise EngineRefused("this device has no NVIDIA card")
        if self._installed is None:
            raise EngineRefused(f"{self._library} is not installed: pip install 'trt-worker[gpu]'")
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
    identity = stored.manifest.identity
    return (
        spec.model.name in stored.manifest.models
        and (identity.architecture, identity.component) == (spec.model.architecture, spec.component.value)
        and identity.library == library
    )


def _inputs(identity: Identity) -> set[str]:
    return {one.name for profile in identity.profiles for one in profile}


def _profiles(identity: Identity) -> tuple[ProfileShapes, ...]:
    return tuple(
        {one.name: ShapeRange(min=one.min, opt=one.opt, max=one.max) for one in profile}
        for profile in identity.profiles
    )
