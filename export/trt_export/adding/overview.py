"""Which models there are, in what state they are, and what can run them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from trt_engines.architectures.registry import architecture
from trt_engines.bound_weights import read_bindings
from trt_engines.description import FILE, read_description
from trt_engines.errors import ModelUnusable
from trt_engines.model import BUILT_IN, Model, model_folders, read_model
from trt_engines.store.store import Store
from trt_engines.weights import DigestNotes, damage
from trt_export.adding.wanted import looks_of, of_source

READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A model as operators see it."""

    name: str
    title: str = ""  # of its architecture
    prediction: str = ""  # where it is not the architecture's
    bytes: int = 0  # of its weights, wherever they lie
    lies: str = ""  # its checkpoint
    backends: tuple[str, ...] = ()  # what can run it, engines with the cards and the number of networks
    state: str  # READY, or what is wrong


def overviews(models: Path, store: Store) -> tuple[Overview, ...]:
    """The models that ship and those of a folder, by name."""
    engines = tuple(_engines(store))
    return tuple(
        sorted((_overview(folder, engines) for folder in model_folders(BUILT_IN, models)), key=lambda one: one.name)
    )


def problem_with(folder: Path) -> str:
    """What is wrong with a model, every byte of its weights read; empty: nothing that can be seen."""
    try:
        model = read_model(folder)
        return changed(folder) or damage(model, DigestNotes(None), anew=True) or _problem_with_networks(model)
    except ModelUnusable as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or folder}: cannot be read ({error.strerror})"


def changed(folder: Path) -> str:
    """Whether a model's checkpoint is another one than was added, in words; empty: it looks the same.

    Raises: ModelUnusable.
    """
    source = read_description(folder / FILE).source
    if source is None or not source.fingerprint:
        return ""
    if not Path(source.path).exists():
        return f"its checkpoint {source.path} is not there any more"
    if looks_of(of_source(folder.name, source)) != source.fingerprint:
        return f"its checkpoint {source.path} has changed: add it again (./horde-bridge.sh models add {source.path})"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    weights: str  # digest
    library: str
    cards: str


def _engines(store: Store) -> Iterator[_Engine]:
    for entry in store.entries():
        if entry.manifest is not None and entry.state == READY:
            identity = entry.manifest.identity
            cards = "+".join(f"SM{sm}" for sm in identity.compute_capabilities)
            yield _Engine(weights=identity.weights, library=identity.library, cards=cards)


def _overview(folder: Path, engines: Sequence[_Engine]) -> Overview:
    try:
        model = read_model(folder)
    except ModelUnusable as error:
        return Overview(name=folder.name, lies=_lies(folder), state=f"unusable: {error}")
    usual = architecture(model.architecture)
    try:
        state = changed(folder) or READY
    except ModelUnusable as error:
        state = f"unusable: {error}"
    return Overview(
        name=model.name,
        title=usual.title,
        prediction="" if model.levels.prediction == usual.prediction else model.levels.prediction.value,
        bytes=sum(file.stat().st_size for file in {file.resolve() for file in model.weight_files}),
        lies=_lies(folder),
        backends=tuple(_backends(model, engines)),
        state=state,
    )


def _lies(folder: Path) -> str:
    try:
        source = read_description(folder / FILE).source
    except ModelUnusable:
        return str(folder)
    return str(folder) if source is None else source.path


def _backends(model: Model, engines: Sequence[_Engine]) -> Iterator[str]:
    needed = model.facts.needed
    files = [model.networks[network] for network in needed]
    places = dict.fromkeys((one.library, one.cards) for one in engines)
    for library, cards in places:
        built = {one.weights for one in engines if (one.library, one.cards) == (library, cards)}
        if count := sum(one.digest in built for one in files if one.digest):
            yield f"{library} {cards} ({count} of {len(files)} networks)"
    if all(one.graph is not None for one in files):
        yield "onnxruntime"
    if all(one.bindings is not None for one in files):
        yield "pytorch"


def _problem_with_networks(model: Model) -> str:
    """What is wrong with graphs and bindings; empty: they open, and every weight they name is there."""
    for network, files in model.networks.items():
        if files.bindings is not None:
            read_bindings(files.bindings)
        if files.graph is not None and (problem := _problem_with_graph(files.graph)):
            return f"the graph of the {network}, {files.graph}: {problem}"
    return ""


def _problem_with_graph(file: Path) -> str:
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except Exception as error:  # noqa: BLE001 - the library's parser raises what it likes
        return f"cannot be opened ({error})"
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        end = int(place.get("offset", 0)) + int(place.get("length", 0))
        if (size := os.stat(file.parent / place["location"]).st_size) < end:
            return f"the weight {tensor.name} ends at byte {end} of {place['location']}, which has {size}"
    return ""
