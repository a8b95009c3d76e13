"""Add a checkpoint to the models of a rig: recognise it, export what graphs are missing, write its folder."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import NoiseLevels
from trt_engines.architectures.registry import architecture
from trt_engines.architectures.served import why_unserved
from trt_engines.description import FILE, MOST_PART, DescribedNetwork, Description, problem_with_name, read_description
from trt_engines.description import Source as DescribedSource
from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN, Model, read_model
from trt_engines.store.files import room_for, write_whole
from trt_engines.store.locks import hold
from trt_export.adding.baselines import family_of
from trt_export.adding.folder import SERVED_AS, write_network
from trt_export.adding.staging import lock_of, publish, staged, tidy
from trt_export.adding.wanted import CannotAdd, UnservedArchitecture, Wanted, check_there
from trt_export.building.exported import exported_graph
from trt_export.building.holdings import Holdings, holdings
from trt_export.building.located import CONVERTED, Located, fingerprint
from trt_export.building.source import Source, open_located
from trt_export.checkpoints.kinds import refuse_other_kinds
from trt_export.checkpoints.legacy import convert
from trt_export.checkpoints.pickles import PICKLED
from trt_export.child import Stopped, Tell
from trt_export.graphs.cache import GraphCache

_CHUNK = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A model that was added."""

    model: Model
    title: str  # of its architecture
    types: tuple[str, ...]  # of its weights, in safetensors' words
    notes: tuple[str, ...]  # what is unusual, or was taken for granted, as sentences for people
    exported: tuple[str, ...]  # networks whose graphs were not there
    written_bytes: int  # besides the graphs in the cache, without what links lead to


def add_model(wanted: Wanted, *, models: Path, graphs: Path, tell: Tell, stop: threading.Event) -> Added:
    """Add a checkpoint to the models of a folder; a model of the same files and name is written anew.

    Args:
        models: folder of model folders.
        graphs: folder of exported graphs.
        tell: told what is done, and how far it is.
        stop: ends the work when set.
    Raises: CannotAdd, UnreadableCheckpoint, UnknownArchitecture, WeightsMissing, PhaseFailed, Stopped, StoreError,
        OSError. Whatever it is, nothing of the model is there that was not there before.
    """
    wanted = replace(
        wanted,
        path=wanted.path.expanduser().absolute(),
        networks={network: file.expanduser().absolute() for network, file in wanted.networks.items()},
    )
    check_there(wanted)
    _check_name(wanted.model)
    place = models / wanted.model
    models.mkdir(parents=True, exist_ok=True)
    tidy(models)
    with hold(lock_of(models, wanted.model), stop=stop):
        _check_free(place, wanted)
        with room_for(models, f"the model {wanted.model}"), staged(models, wanted.model) as folder:
            added = _write(wanted, folder, GraphCache(graphs), tell, stop)
            publish(folder, place)
    return replace(added, model=read_model(place))


def _write(wanted: Wanted, folder: Path, cache: GraphCache, tell: Tell, stop: threading.Event) -> Added:
    """Write the folder of a model. Returns: what was added, its model as it lies in that folder."""
    before = fingerprint(wanted.located)
    readable = _without_pickles(wanted, folder, tell, stop)
    refuse_other_kinds(readable.path)
    family = wanted.family or (wanted.baseline and family_of(readable, wanted.baseline))
    source = _open(readable, wanted, family)
    held = holdings(source)
    _check_complete(wanted, source, held)
    files = _names_in(folder, source.checkpoint.files)
    networks: dict[str, DescribedNetwork] = {}
    exported = []
    with _digests(files, stop) as digests:
        for network in held.stored:
            graph = exported_graph(
                cache,
                source.architecture.name,
                source.modules[network],
                SERVED_AS,
                _naming(network, tell),
                stop,
            )
            if graph.seconds:
                exported.append(network)
            tell(f"bind {network}", 0.0)
            networks[network] = write_network(source, network, graph.data, folder, files)
            if stop.is_set():
                raise Stopped
        known = digests()
    for file, link in files.items():
        if file.parent != folder:
            (folder / link).symlink_to(file.resolve())
    if fingerprint(wanted.located) != before:
        raise CannotAdd(f"{wanted.path} was changed while it was read, as by a download: add it when it is whole")
    levels = source.architecture.passes[0].levels
    usual = architecture(source.architecture.name).prediction
    described = Description(
        name=wanted.model,
        architecture=source.architecture.name,
        networks=networks,
        files={f"file {number}": file for number, file in enumerate(_asked_for_as(wanted, files), start=1)},
        prediction=None if levels.prediction == usual else levels.prediction.value,
        zero_terminal_snr=levels.zero_terminal_snr,
        sigma_min=levels.sigma_min,
        sigma_max=levels.sigma_max,
        digests=known,
        source=_described(wanted, family, before),
    )
    write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(described), indent=2))
    return Added(
        model=read_model(folder),
        title=source.architecture.title,
        types=tuple(sorted({word for one in held.stored.values() for word in one.types})),
        notes=tuple(_notes(source, held, levels)),
        exported=tuple(exported),
        written_bytes=sum(file.stat().st_size for file in folder.iterdir() if not file.is_symlink()),
    )


def _naming(network: str, tell: Tell) -> Tell:
    """Tells of the steps of one network, with its name."""
    return lambda step, share: tell(f"{step} {network}", share)


def _described(wanted: Wanted, family: str | None, files: str) -> DescribedSource:
    networks = {network: str(file) for network, file in wanted.networks.items()}
    return DescribedSource(path=str(wanted.path), networks=networks, architecture=family, fingerprint=files)


def _without_pickles(wanted: Wanted, folder: Path, tell: Tell, stop: threading.Event) -> Located:
    """The checkpoint with safetensors files in a model's folder for its pickles."""

    def converted(file: Path, name: str) -> Path:
        if not file.is_file() or file.suffix.lower() not in PICKLED:
            return file
        tell("convert", 0.0)
        convert(file, folder / name, tell, stop)
        return folder / name

    path = converted(wanted.path, CONVERTED)
    networks = {network: converted(file, f"{network}-{CONVERTED}") for network, file in wanted.networks.items()}
    return Located(name=wanted.model, path=path, networks=tuple(networks.items()))


def _open(located: Located, wanted: Wanted, family: str | None) -> Source:
    """Raises: CannotAdd, UnreadableCheckpoint, UnknownArchitecture."""
    source = open_located(located, family)
    if reason := why_unserved(source.architecture):
        raise UnservedArchitecture(
            f"{wanted.path} is {source.architecture.title}: {reason}. Engines of it can be built, and a later version "
            "serves them; nothing was written"
        )
    return source


def _check_complete(wanted: Wanted, source: Source, held: Holdings) -> None:
    """Raises: CannotAdd: the checkpoint lacks a network without which nothing is drawn."""
    needed = [one for one in source.architecture.networks if one.name in source.architecture.needed]
    missing = [one for one in needed if one.name in held.absent]
    reasons = [f"The {one.name}: {held.problems[one.name]}" for one in needed if one.name in held.problems]
    what = f"{wanted.path} is {source.architecture.title}"
    if missing:
        options = dict.fromkeys(f"--network {_option(one)}=FILE" for one in missing)
        raise CannotAdd(
            f"{what} without its {' and '.join(one.name for one in missing)}; say where to find that with "
            f"{' '.join(options)}"
        )
    if reasons:
        raise CannotAdd(f"{what}, but its weights cannot be taken. {'. '.join(reasons)}")


def _option(network: Network) -> str:
    """What `--network` calls a network: an autoencoder's file has both directions."""
    return "vae" if network.role is Role.AUTOENCODER and "vae" in network.folders else network.name


def _check_name(name: str) -> None:
    """Raises: CannotAdd: it cannot be the name of a model and of a folder."""
    problem = problem_with_name(name)
    if not problem and (name.startswith(".") or "/" in name):
        problem = f"is {name!r}; a model's name is also that of a folder"
    if not problem and len(f".{name}.lock".encode()) > MOST_PART:
        problem = f"begins {name[:40]!r} and is longer than that of a folder can be"
    if problem:
        raise CannotAdd(f"the name {problem}: give another with --name")


def _check_free(place: Path, wanted: Wanted) -> None:
    """Raises: CannotAdd: another model has the name."""
    if (BUILT_IN / wanted.model).exists():
        raise CannotAdd(f"{wanted.model} is the model that ships with this worker: give another name with --name")
    if not place.exists():
        return
    if not (place / FILE).exists():
        raise CannotAdd(f"there is a folder {place} already that is no model: give another name with --name")
    try:
        source = read_description(place / FILE).source
    except ModelUnusable as error:
        raise CannotAdd(
            f"there is a model {wanted.model} already that cannot be read ({error}): remove it, or give --name"
        ) from error
    lying = _described(wanted, None, "")
    if source is None or (source.path, source.networks) != (lying.path, lying.networks):
        lies = source.path if source is not None else str(place)
        raise CannotAdd(
            f"there is a model {wanted.model} already, of {lies}: give this one another name with --name, or remove "
            f"that first (./horde-bridge.sh models remove {wanted.model})"
        )


def _names_in(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """What a checkpoint's files are called in a model's folder: links, but for what lies there itself."""
    return {
        file: file.name if file.parent == folder else f"weights-{number}.safetensors"
        for number, file in enumerate(files)
    }


@contextmanager
def _digests(files: Mapping[Path, str], stop: threading.Event) -> Iterator[Callable[[], dict[str, str]]]:
    """Hash files beside other work: hashing lets go of the interpreter, and exporting waits for another process.

    Gives what waits for the digests, by the names of the files. Leaving the block early ends the hashing.
    """
    left = threading.Event()

    def digest(file: Path) -> str:
        total = hashlib.sha256()
        with file.open("rb", buffering=0) as stream:
            while data := stream.read(_CHUNK):
                if stop.is_set() or left.is_set():
                    raise Stopped
                total.update(data)
        return total.hexdigest()

    with ThreadPoolExecutor(1) as beside:
        future = beside.submit(lambda: {name: digest(file) for file, name in files.items()})
        try:
            yield future.result
        finally:
            left.set()


def _asked_for_as(wanted: Wanted, files: Mapping[Path, str]) -> Sequence[str]:
    """File names under which recipes ask for a model: not those that every diffusers folder has."""
    names = dict.fromkeys([wanted.path.name, *(file.name for file in files)])
    others = ("model.", "model-", "diffusion_pytorch_model")
    return [name for name in names if not name.startswith(others) and not name.endswith(CONVERTED)]


def _notes(source: Source, held: Holdings, levels: NoiseLevels) -> Iterator[str]:
    """What is unusual about a model, as sentences for people."""
    if levels.prediction != architecture(source.architecture.name).prediction:
        yield f"It predicts {levels.prediction}, by its own word."
    if levels.zero_terminal_snr:
        yield "Its noise levels end in nothing but noise (zero terminal SNR)."
    if levels.sigma_max is not None:
        yield f"Its noise levels are EDM's, from {levels.sigma_min:g} to {levels.sigma_max:g}."
    for network, problem in held.problems.items():
        yield f"It is served without its {network}, and takes no jobs that need that: {problem}."
    if source.assumption:
        yield source.assumption[0].upper() + source.assumption[1:] + "."
