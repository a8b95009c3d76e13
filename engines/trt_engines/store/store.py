"""The store: engines are found by what they are, published whole, and built by one process at a time.

ROOT/engines/DIGEST/    manifest.json, the engine's files, `used` (its time is the last use), `kernels/`
ROOT/staging/DIGEST/    a build that is under way, or was stopped
ROOT/locks/DIGEST.lock  held by whoever builds, imports or removes
ROOT/timing/            how fast kernels are on this machine's cards, for builds that choose by it
ROOT/scratch/           files of builds under way that nothing else needs
ROOT/trash/             on its way out
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trt_engines.store.errors import DamagedEngine, NewerManifest, UncertifiedEngine, UnknownEngine
from trt_engines.store.files import (
    discard,
    keep_only,
    last_change,
    megabytes,
    remove_tree,
    require_room,
    room_for,
    size_of,
    sync,
)
from trt_engines.store.identity import Identity, digest
from trt_engines.store.kernels import KernelFile
from trt_engines.store.locks import hold, hold_if_free, is_held, share
from trt_engines.store.manifest import KERNELS, MANIFEST, PHASES, USED, Manifest, decode_manifest
from trt_engines.store.staging import Staging
from trt_engines.store.stored import Stored, read_stored, verify_stored

_DIGEST = re.compile(r"[0-9a-f]{64}")
OnWait = Callable[[int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A folder of the store as it is listed: an engine that can be served, or why it cannot."""

    digest: str
    size: int  # bytes, of all files
    last_used: float  # seconds since 1970
    manifest: Manifest | None  # None: damaged or newer
    state: str  # "ready", "failed" (its certificate), "damaged" or "newer"
    problem: str = ""  # in full


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A build that is under way, or was stopped and can go on."""

    digest: str
    size: int  # bytes
    changed: float  # seconds since 1970
    held: bool  # a process is at it
    phases: tuple[str, ...]  # that are finished


class Store:
    """Engines below one folder. Any number of processes may use it at once; nothing is kept in memory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def engines(self) -> Path:
        """Where published engines lie."""
        return self.root / "engines"

    @property
    def staging(self) -> Path:
        """Where builds lie that are not published."""
        return self.root / "staging"

    @property
    def trash(self) -> Path:
        """Where folders go that are being removed."""
        return self.root / "trash"

    def lock(self, name: str) -> Path:
        """The lock file of a digest."""
        return self.root / "locks" / f"{name}.lock"

    def find(self, identity: Identity) -> Stored | None:
        """The engine of this identity, if it is here and passed its certificate; reads no engine bytes.

        Raises: DamagedEngine, NewerManifest: it is here and cannot be served.
        """
        found = read_stored(self.engines / digest(identity))
        return found if found is not None and found.manifest.passed else None

    def get(self, name: str) -> Stored:
        """The engine of a digest, whatever its certificate says.

        Raises: UnknownEngine, DamagedEngine, NewerManifest.
        """
        found = read_stored(self.engines / name)
        if found is None:
            raise _unknown(name, self.root)
        return found

    def verify(self, name: str) -> Stored:
        """Compare every byte of an engine with its manifest.

        Raises: UnknownEngine, NewerManifest. DamagedEngine: nobody is given the engine any more.
            UncertifiedEngine: it is whole and may not be served.
        """
        with self.holding(name):  # nobody replaces it meanwhile
            folder = self.engines / name
            if not folder.exists():
                raise _unknown(name, self.root)
            found = verify_stored(folder)
        if not found.manifest.passed:
            raise UncertifiedEngine(
                f"engine {name[:12]} is whole, but failed its fidelity certificate: it is not served"
            )
        return found

    def resolve(self, prefix: str) -> str:
        """The digest that starts like this. Raises: UnknownEngine."""
        matches = [name for name in self._names(self.engines) if name.startswith(prefix.lower())]
        if len(matches) == 1 and prefix:
            return matches[0]
        which = f"{len(matches)} engines start" if matches else "no engine starts"
        raise UnknownEngine(f"{which} with {prefix!r} in {self.root}; `trt-worker engines list` shows what is there")

    def entries(self) -> tuple[Entry, ...]:
        """All engines, by digest."""
        return tuple(entry for name in self._names(self.engines) if (entry := self._entry(name)) is not None)

    def sound(self) -> tuple[Stored, ...]:
        """The engines whose manifests and sizes are right, by digest, whatever their certificates say.

        Of the others `entries` has the problem. Reads no engine bytes.
        """
        found = []
        for name in self._names(self.engines):
            with suppress(DamagedEngine, NewerManifest):
                found.append(read_stored(self.engines / name))
        return tuple(one for one in found if one is not None)

    def unfinished(self) -> tuple[Unfinished, ...]:
        """All builds that are not published, by digest."""
        return tuple(
            Unfinished(
                digest=name,
                size=size_of(self.staging / name),
                changed=last_change(self.staging / name),
                held=is_held(self.lock(name)),
                phases=tuple(sorted(path.stem for path in (self.staging / name / PHASES).glob("*.json"))),
            )
            for name in self._names(self.staging)
        )

    @contextmanager
    def building(
        self,
        identity: Identity,
        *,
        needed: int = 0,
        on_wait: OnWait | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Staging]:
        """Build an engine, or wait for the process that does.

        The caller looks at `published` first: it is set if the engine was built meanwhile. It runs the phases that are
        not `done`, and calls `publish`. Left in any other way, by an error or a kill, finished phases stay for the next
        try.

        Args:
            needed: bytes that the build will write, as far as known: refused at once where they are not free.
            on_wait: called with the other process's id, if known, before waiting for it.
            stop: ends that waiting when set.

        Raises: StoreFull: also for a full disk met by the caller's own writing inside the block. NewerManifest,
            WaitingStopped.
        """
        name = digest(identity)
        staging = Staging(identity, self.staging / name, lambda: self._finish(name))
        with self.holding(name, on_wait, stop):
            staging.published = self._found_or_finished(identity)
            if staging.published is None:
                staging.open()
                require_room(staging.folder, f"engine {name[:12]}", needed - size_of(staging.folder))
            try:
                with room_for(staging.folder, f"the build of engine {name[:12]} (about {megabytes(needed)} in all)"):
                    yield staging
            except BaseException:
                if staging.published is None and staging.folder.exists():
                    staging.clean()  # gives back what an unfinished phase took
                raise

    @contextmanager
    def holding(self, name: str, on_wait: OnWait | None = None, stop: threading.Event | None = None) -> Iterator[None]:
        """Be the only process that changes the engine of this digest."""
        with room_for(self.root, "a lock file"):
            self.lock(name).parent.mkdir(parents=True, exist_ok=True)
        with hold(self.lock(name), on_wait, stop):
            yield

    def kernels(self, name: str, library_version: str, card: str) -> KernelFile:
        """Where kernels are kept that a library compiled for an engine on one kind of card.

        Args:
            name: the engine's digest.
            card: its name and compute capability.
        """
        return KernelFile(self.engines / name / KERNELS, self.lock(name), f"{library_version} {card}")

    def timing_cache(self, compute_capability: int) -> Path:
        """Where a library keeps how fast kernels are on a card. Args: compute_capability: times ten: 86."""
        return self.root / "timing" / f"sm{compute_capability}.cache"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for as long as the block runs; the first of several builds removes what killed ones left."""
        root = self.root / "scratch"
        with room_for(root, "the folder of a build"):
            root.mkdir(parents=True, exist_ok=True)
            self.lock("scratch").parent.mkdir(parents=True, exist_ok=True)
        with (
            share(self.lock("scratch"), lambda: keep_only(root, ())),
            tempfile.TemporaryDirectory(dir=root) as folder,
        ):
            yield Path(folder)

    def remove(self, name: str, *, unfinished: bool = False) -> bool:
        """Remove an engine, or a build that was stopped; False if a process is at it. Works on a full disk."""
        self.lock(name).parent.mkdir(parents=True, exist_ok=True)
        with hold_if_free(self.lock(name)) as held:
            if held:
                discard((self.staging if unfinished else self.engines) / name, self.trash)
            return held

    def empty_trash(self) -> None:
        """Remove what killed processes left on its way out."""
        if self.trash.exists():
            for folder in self.trash.iterdir():
                remove_tree(folder)

    def publish(self, folder: Path, name: str) -> Stored:
        """Put a whole folder, with its manifest, in the engine's place; what was there goes. The lock is held."""
        target = self.engines / name
        with room_for(self.root, f"the entry of engine {name[:12]}"):
            self.engines.mkdir(parents=True, exist_ok=True)
            (folder / USED).touch()  # here, so that noting a use never needs room
            sync(folder)
            if target.exists():
                discard(target, self.trash)
            folder.rename(target)
            sync(self.engines)
            sync(folder.parent)
        return self.get(name)

    def _found_or_finished(self, identity: Identity) -> Stored | None:
        """The engine if it can be served, after finishing a publication that was cut off."""
        try:
            found = self.find(identity)
        except DamagedEngine:
            found = None  # building it anew is what mends it
        if found is not None:
            return found
        name = digest(identity)
        manifest = self.staging / name / MANIFEST
        if not manifest.exists():
            return None
        try:
            verify_stored(manifest.parent)
            finished = self._finish(name)
        except DamagedEngine:
            manifest.unlink(missing_ok=True)  # then the phases that are sound are published again
            return None
        return finished if finished.manifest.passed else None

    def _finish(self, name: str) -> Stored:
        """Publish a staging folder that has its manifest, without what else the build left there."""
        folder = self.staging / name
        manifest = decode_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        keep_only(folder, {MANIFEST, *manifest.files})
        return self.publish(folder, name)

    def _entry(self, name: str) -> Entry | None:
        folder = self.engines / name
        try:
            found = read_stored(folder)
        except (DamagedEngine, NewerManifest) as error:
            state = "newer" if isinstance(error, NewerManifest) else "damaged"
            return Entry(
                digest=name,
                size=size_of(folder),
                last_used=last_change(folder),
                manifest=None,
                state=state,
                problem=str(error),
            )
        if found is None:
            return None
        return Entry(
            digest=name,
            size=size_of(folder),
            last_used=found.last_used,
            manifest=found.manifest,
            state="ready" if found.manifest.passed else "failed",
            problem="" if found.manifest.passed else "it failed its fidelity certificate",
        )

    def _names(self, folder: Path) -> list[str]:
        if not folder.exists():
            return []
        return sorted(path.name for path in folder.iterdir() if _DIGEST.fullmatch(path.name))


def _unknown(name: str, root: Path) -> UnknownEngine:
    return UnknownEngine(f"no engine {name[:12]} in {root}; `trt-worker engines list` shows what is there")
