"""A checkpoint: one file, a folder, or a file for each network, seen as the tensors of each network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from trt_engines.architectures.registry import ARCHITECTURES
from trt_export.checkpoints.legacy import PICKLED, refusal
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_header


def _folders() -> dict[str, tuple[str, ...]]:
    """The folders of each network's name in any architecture."""
    found: dict[str, dict[str, None]] = {}
    networks = [network for known in ARCHITECTURES for network in known.networks]
    for preference in range(max(len(network.folders) for network in networks)):
        for network in networks:
            found.setdefault(network.name, {}).update(dict.fromkeys(network.folders[preference : preference + 1]))
    return {name: tuple(folders) for name, folders in found.items()}


FOLDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(_folders())
"""Where a folder keeps the networks of an architecture, the first that is there: diffusers' names, then ComfyUI's."""

SPLIT = "split_files"
"""What repositories for ComfyUI have around the folders of their networks."""

SAFETENSORS = frozenset({".safetensors", ".sft"})
"""Endings of files that weights are bound in, in small letters."""

MARKERS = frozenset({"scaled_fp8"})
"""Names that files of any network have, whose values say nothing: ComfyUI's sign of scaled float8 weights."""

Tensors = Mapping[str, StoredTensor]


class NoFile(UnreadableCheckpoint):
    """A checkpoint has no file for a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of a model's weights. `parts` are its networks by folder or component; "" has all the others."""

    path: Path
    parts: Mapping[str, Tensors]
    places: Mapping[str, Path] = field(default_factory=dict)  # the file or folder that a part was read from

    def of(self, component: str) -> Tensors:
        """The tensors among which a component's are, by their names in the files.

        Raises: UnreadableCheckpoint: no file is for that component.
        """
        return self.parts[self._part(component)]

    def place_of(self, component: str) -> Path:
        """The file or folder that a component's tensors were read from. Raises: as `of`."""
        return self.places.get(self._part(component), self.path)

    def _part(self, component: str) -> str:
        places = (component, *FOLDERS.get(component, ()))
        for place in (*places, ""):
            if place in self.parts:
                return place
        raise NoFile(
            f"{self.path} has nothing for the {component}: none of {', '.join(places)} is there; it has "
            f"{', '.join(sorted(self.parts)) or 'no networks'}"
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of weights."""
        return tuple(sorted({one.file for tensors in self.parts.values() for one in tensors.values()}))


def open_checkpoint(path: Path, networks: Mapping[str, Path] | None = None) -> Checkpoint:
    """Read the headers of a checkpoint.

    Args:
        path: a safetensors file; a folder of diffusers or ComfyUI with a folder for each network; or a folder of files
            that together are one network or several.
        networks: files or folders of single networks, by component ("text_encoder") or by folder ("vae", for both
            directions): they go before what `path` has.

    Raises: UnreadableCheckpoint.
    """
    named = dict(networks or {})
    folders = dict.fromkeys(name for names in FOLDERS.values() for name in names)
    for name, place in named.items():
        if name not in (known := {*FOLDERS, *folders}):
            raise UnreadableCheckpoint(f"{place} is given for {name!r}; networks are {', '.join(sorted(known))}")
    root = path / SPLIT if (path / SPLIT).is_dir() else path
    places = {"": path}
    if held := [folder for folder in folders if (root / folder).is_dir()]:
        # Single files beside them say the same, and what is named elsewhere is not looked for here.
        places = {folder: root / folder for folder in held if not _named(folder, named)}
    places |= named
    parts = {name: _tensors(place) for name, place in places.items()}
    return Checkpoint(path=path, parts=MappingProxyType(parts), places=MappingProxyType(places))


def _named(folder: str, named: Mapping[str, Path]) -> bool:
    """Whether every network that a folder is for is given elsewhere."""
    users = [{component, *names} for component, names in FOLDERS.items() if folder in names]
    return folder in named or all(names & named.keys() for names in users)


def _tensors(path: Path) -> Tensors:
    """The tensors of a file, or of the files of one folder."""
    if not path.is_dir():
        if path.suffix.lower() in PICKLED:
            raise UnreadableCheckpoint(refusal(path))
        if path.suffix.lower() not in SAFETENSORS:
            raise UnreadableCheckpoint(
                f"{path} is not a .safetensors file, and engines are built from nothing else: weights are bound where "
                "they lie in it. Get the model in that format"
            )
        return read_header(path)
    if indices := [index for index in sorted(path.glob("*.index*.json")) if _counts(index)]:
        return _indexed(_plainest(path, indices))
    files = _weight_files(path)
    if not files:
        _refuse_folder(path)
    # One network as it is published: in one file, in several precisions beside each other ("model.fp16.safetensors"),
    # or in files of other names that belong together.
    stems = {file.name.split(".")[0] for file in files}
    return _merged([_plainest(path, files)] if len(stems) == 1 else files)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SAFETENSORS and not file.name.startswith(".")
    )


def _plainest(folder: Path, files: list[Path]) -> Path:
    """Of the files that say the same in several precisions, the one that has no variant in its name."""
    dots = min(file.name.count(".") for file in files)
    plain = [file for file in files if file.name.count(".") == dots]
    if len(plain) > 1:
        names = ", ".join(file.name for file in plain)
        raise UnreadableCheckpoint(f"{folder} has the network several times ({names}); keep one of them there")
    return plain[0]


def _counts(index: Path) -> bool:
    """Whether an index says where the network is: not one of pickles, nor one of which no file is there any more."""
    return ".bin." not in index.name and any((index.parent / name).exists() for name in _weight_map(index).values())


def _weight_map(index: Path) -> dict[str, str]:
    """In which file an index has each tensor. Raises: UnreadableCheckpoint."""
    try:
        places = {key: str(name) for key, name in json.loads(index.read_bytes())["weight_map"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise UnreadableCheckpoint(f"{index} is no index of safetensors files: {exc!r}") from exc
    if outside := [name for name in places.values() if Path(name).name != name]:
        raise UnreadableCheckpoint(f"{index} names files outside of its folder ({outside[0]}); it is not to be trusted")
    return places


def _indexed(index: Path) -> Tensors:
    """The tensors of a network in several files: an index says which, the files say what they hold."""
    places = _weight_map(index)
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        if not (index.parent / name).exists():
            raise UnreadableCheckpoint(
                f"{index} names {name}, which is not there: get that file as well, or remove the index if the files "
                "beside it are the whole network"
            )
        for key, tensor in read_header(index.parent / name).items():
            if key not in found or places.get(key) == name:
                found[key] = tensor
    return MappingProxyType(found)


def _merged(files: Iterable[Path]) -> Tensors:
    found: dict[str, StoredTensor] = {}
    for file in files:
        for key, tensor in read_header(file).items():
            if (other := found.setdefault(key, tensor)) is not tensor and key not in MARKERS:
                raise UnreadableCheckpoint(
                    f"{other.file} and {file} both have {key!r}: a folder of several models is none; name the file "
                    "that is meant, and those of its other networks by what they are"
                )
    return MappingProxyType(found)


def _refuse_folder(folder: Path) -> None:
    if pickles := sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICKLED):
        raise UnreadableCheckpoint(refusal(pickles[0]))
    raise UnreadableCheckpoint(f"{folder} holds no .safetensors file of a network")
