"""Add a checkpoint to the models of a rig: recognise it, export what graphs are missing, write its folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import msgspec

from trt_engines.architectures.noise_levels import NoiseLevels
from trt_engines.architectures.registry import architecture
from trt_engines.architectures.served import why_unserved
from trt_engines.description import FILE, Description, problem_with_name, read_description
from trt_engines.description import Source as DescribedSource
from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN, Model, read_model
from trt_engines.store.files import remove_tree, room_for, write_whole
from trt_engines.store.locks import hold
from trt_engines.weights import sha256_of
from trt_export.adding.folder import SERVED_AS, Written, write_network
from trt_export.building.holdings import holdings
from trt_export.building.located import Located
from trt_export.building.phases import export_by_name
from trt_export.building.source import Source, open_located
from trt_export.checkpoints.kinds import refuse_other_kinds
from trt_export.checkpoints.legacy import PICKLED, convert
from trt_export.child import Tell, run_phase
from trt_export.graphs.cache import GraphCache

NEW, LOCK = ".new-", ".lock"
"""What the folder of a model that is being added begins with, and what the name of its lock ends with."""

CONVERTED = "checkpoint.safetensors"
"""What a pickled checkpoint becomes, in the model's folder."""


class CannotAdd(Exception):
    """A model was not added; the message says why and what to do. Nothing of it was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A model that was added."""

    model: Model
    title: str  # of its architecture
    notes: tuple[str, ...]  # what is unusual, or was taken for granted, as sentences for people
    exported: tuple[str, ...]  # networks whose graphs were not there
    written_bytes: int  # besides the graphs in the cache and links


def add_model(
    path: Path,
    *,
    models: Path,
    graphs: Path,
    name: str | None = None,
    networks: Mapping[str, Path] = MappingProxyType({}),
    family: str | None = None,
    tell: Tell,
    stop: threading.Event,
) -> Added:
    """Add a checkpoint to the models of a folder.

    Args:
        path: a safetensors file, a pickle, a diffusers folder, or a folder of split files as ComfyUI has them.
        models: folder of model folders.
        graphs: folder of exported graphs.
        name: of the model; None: the file's or folder's.
        networks: files of single networks that lie elsewhere, by network.
        family: name of the architecture, where the files do not say it.
        tell: told what is done, and how far it is.
        stop: ends the work when set.
    Raises: CannotAdd, UnreadableCheckpoint, UnknownArchitecture, PhaseFailed, Stopped, StoreFull, OSError.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise CannotAdd(f"{path} does not exist")
    called = name if name is not None else (path.name if path.is_dir() else path.stem)
    _check_name(called)
    models.mkdir(parents=True, exist_ok=True)
    with hold(models / f".{called}{LOCK}", stop=stop):
        _check_free(models / called, called, path, networks)
        with _staging(models, called) as folder:
            added = _write(path, called, folder, models, GraphCache(graphs), networks, family, tell, stop)
            _publish(folder, models / called)
    return replace(added, model=read_model(models / called))


def _write(
    path: Path,
    name: str,
    folder: Path,
    models: Path,
    cache: GraphCache,
    networks: Mapping[str, Path],
    family: str | None,
    tell: Tell,
    stop: threading.Event,
) -> Added:
    """Write the folder of a model. Returns: what was added, its model as it lies in that folder."""
    checkpoint = path
    if path.is_file() and path.suffix.lower() in PICKLED:
        tell("convert", 0.0)
        checkpoint = folder / CONVERTED
        convert(path, checkpoint)
    source = _open(checkpoint, name, networks, family)
    wanted = _complete(source)
    with ThreadPoolExecutor(1) as beside:  # hashing lets go of the interpreter, exporting waits for another process
        files = _names_in(folder, source.checkpoint.files)
        digests = beside.submit(lambda: {files[file]: sha256_of(file) for file in files})
        written: dict[str, Written] = {}
        exported = []
        for network in wanted:
            file = graph_file(source, network, cache)
            if not file.exists():
                exported.append(network)
                export(source, network, cache, tell, stop)
            tell(f"bind {network}", 0.0)
            with room_for(models, f"the model {name}"):
                written[network] = write_network(source, network, file.read_bytes(), folder, files)
        for file, link in files.items():
            if file.parent != folder:
                (folder / link).symlink_to(file.resolve())
        tell("digests", 0.0)
        known = digests.result()
    levels = source.architecture.passes[0].levels
    usual = architecture(source.architecture.name).passes[0].levels
    described = Description(
        name=name,
        architecture=source.architecture.name,
        networks={network: one.described for network, one in written.items()},
        files={f"file {number}": file for number, file in enumerate(_asked_for_as(path, files), start=1)},
        prediction=None if levels.prediction == usual.prediction else levels.prediction.value,
        zero_terminal_snr=levels.zero_terminal_snr,
        sigma_min=levels.sigma_min,
        sigma_max=levels.sigma_max,
        digests=known,
        source=DescribedSource(path=str(path), networks={one: str(file) for one, file in networks.items()}),
    )
    write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(described), indent=2))
    return Added(
        model=read_model(folder),
        title=source.architecture.title,
        notes=tuple(_notes(source, levels)),
        exported=tuple(exported),
        written_bytes=sum(one.size for one in written.values()) + (folder / FILE).stat().st_size,
    )


def graph_file(source: Source, network: str, cache: GraphCache) -> Path:
    """Where the cache keeps the graph of a network that is served, whether or not it is there."""
    module = source.modules[network]
    return cache.path(f"{source.architecture.name}/{network}", module.config, SERVED_AS)


def export(source: Source, network: str, cache: GraphCache, tell: Tell, stop: threading.Event) -> None:
    """Export a network's graph into the cache, in another process; several that want one wait for it.

    Raises: PhaseFailed, Stopped, WaitingStopped, StoreFull, OSError.
    """
    file, module = graph_file(source, network, cache), source.modules[network]
    cache.root.mkdir(parents=True, exist_ok=True)
    with hold(file.with_suffix(LOCK), stop=stop):
        if file.exists():
            return
        place = (source.architecture.name, network, dict(module.config), SERVED_AS)
        done = run_phase(export_by_name, place, lambda step, share: tell(f"{step} {network}", share), stop)
        cache.keep(file, done.result)


def _open(path: Path, name: str, networks: Mapping[str, Path], family: str | None) -> Source:
    """Raises: CannotAdd, UnreadableCheckpoint, UnknownArchitecture."""
    refuse_other_kinds(path)
    located = Located(name=name, path=path, networks=tuple(networks.items()))
    source = open_located(located, family)
    if reason := why_unserved(source.architecture):
        raise CannotAdd(
            f"{path} is {source.architecture.title}: {reason}. Engines of it can be built, and a later version serves "
            "them; nothing was written"
        )
    return source


def _complete(source: Source) -> tuple[str, ...]:
    """The networks that the checkpoint has. Raises: CannotAdd: it lacks one without which nothing is drawn."""
    found = holdings(source)
    if missing := [one for one in source.modules if one in found.problems and one in source.architecture.needed]:
        reasons = " ".join(f"{one}: {found.problems[one]}." for one in missing)
        options = " ".join(f"--network {one}=FILE" for one in missing)
        raise CannotAdd(
            f"{source.checkpoint.path} is {source.architecture.title} without its {', '.join(missing)}; say where they "
            f"are with {options}. {reasons}"
        )
    return tuple(one for one in source.modules if one in found.stored)


def _check_name(name: str) -> None:
    """Raises: CannotAdd: it cannot be the name of a model and of a folder."""
    problem = problem_with_name(name)
    if not problem and (name.startswith(".") or "/" in name):
        problem = f"is {name!r}; a model's name is also that of a folder"
    if problem:
        raise CannotAdd(f"the name {problem}: give another with --name")


def _check_free(folder: Path, name: str, path: Path, networks: Mapping[str, Path]) -> None:
    """Raises: CannotAdd: another model has the name."""
    if (BUILT_IN / name).exists():
        raise CannotAdd(f"{name} is the model that ships with this worker: give another name with --name")
    if not folder.exists():
        return
    try:
        source = read_description(folder / FILE).source
    except ModelUnusable as error:
        raise CannotAdd(f"{folder} is there already and cannot be read ({error}): remove it, or give --name") from error
    wanted = DescribedSource(path=str(path), networks={one: str(file) for one, file in networks.items()})
    if source != wanted:
        lies = source.path if source is not None else str(folder)
        raise CannotAdd(
            f"there is a model {name} already, of {lies}: give this one another name with --name, or remove the other "
            f"first (./horde-bridge.sh models remove {name})"
        )


@contextmanager
def _staging(models: Path, name: str) -> Iterator[Path]:
    """A folder that nobody reads, without what a killed add left of it. It is removed, if it was not moved."""
    folder = models / f".{name}{NEW}folder"
    if folder.exists():
        remove_tree(folder)
    folder.mkdir()
    try:
        yield folder
    finally:
        if folder.exists():
            remove_tree(folder)


def _publish(folder: Path, place: Path) -> None:
    """Move a whole folder to its place; what was there before is gone first."""
    if place.exists():
        old = place.with_name(f".{place.name}{NEW}old")
        if old.exists():
            remove_tree(old)
        place.rename(old)
        folder.rename(place)
        remove_tree(old)
    else:
        folder.rename(place)


def _names_in(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """What a checkpoint's files are called in a model's folder: links, but for what lies there itself."""
    return {
        file: file.name if file.parent == folder else f"weights-{number}{file.suffix.lower()}"
        for number, file in enumerate(files)
    }


def _asked_for_as(path: Path, files: Mapping[Path, str]) -> Sequence[str]:
    """File names under which recipes ask for a model: not those that every diffusers folder has."""
    names = dict.fromkeys([path.name, *(file.name for file in files)])
    return [name for name in names if not name.startswith(("model.", "model-", "diffusion_pytorch_model"))]


def _notes(source: Source, levels: NoiseLevels) -> Iterator[str]:
    """What is unusual about a model, as sentences for people."""
    if levels.prediction != architecture(source.architecture.name).prediction:
        yield f"It predicts {levels.prediction}, by its own word."
    if levels.zero_terminal_snr:
        yield "Its noise levels end in nothing but noise (zero terminal SNR)."
    if levels.sigma_max is not None:
        yield f"Its noise levels are EDM's, from {levels.sigma_min:g} to {levels.sigma_max:g}."
    if source.assumption:
        yield source.assumption[0].upper() + source.assumption[1:] + "."
