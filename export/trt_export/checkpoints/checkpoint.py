"""A checkpoint: one file, a folder, or a file for each network, seen as the tensors of each network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from trt_export.checkpoints.legacy import PICKLED, refusal
from trt_export.checkpoints.safetensors_file import StoredTensor, UnreadableCheckpoint, read_header

FOLDERS: Mapping[str, tuple[str, ...]] = {
    "text_encoder": ("text_encoder",),
    "text_encoder_2": ("text_encoder_2",),
    "denoiser": ("unet", "transformer", "prior"),
    "denoiser_stage_b": ("decoder",),
    "vae_decoder": ("vae", "vqgan"),
    "vae_encoder": ("vae", "vqgan"),
    "effnet_encoder": ("effnet_encoder",),
}
"""Where a diffusers folder keeps the networks of an architecture, the first that is there."""

SAFETENSORS = frozenset({".safetensors", ".sft"})

MARKERS = frozenset({"scaled_fp8"})
"""Names that files of any network have, whose values say nothing: ComfyUI's sign of scaled float8 weights."""

Tensors = Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of a model's weights. `parts` are its networks by folder or component; "" has all the others."""

    path: Path
    parts: Mapping[str, Tensors]

    def of(self, component: str) -> Tensors:
        """The tensors among which a component's are, by their names in the files.

        Raises: UnreadableCheckpoint: no file is for that component.
        """
        places = (component, *FOLDERS.get(component, ()))
        for place in (*places, ""):
            if place in self.parts:
                return self.parts[place]
        raise UnreadableCheckpoint(
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
        path: a safetensors file; a diffusers folder; or a folder of files that together are one network or several.
        networks: files or folders of single networks, by component ("text_encoder") or by folder ("vae", for both
            directions): they go before what `path` has.

    Raises: UnreadableCheckpoint.
    """
    parts: dict[str, Tensors] = {}
    folders = dict.fromkeys(name for names in FOLDERS.values() for name in names)
    if held := [folder for folder in folders if (path / folder).is_dir()]:
        parts.update((folder, _tensors(path / folder)) for folder in held)  # single files beside them say the same
    else:
        parts[""] = _tensors(path)
    for name, place in (networks or {}).items():
        if name not in (known := {*FOLDERS, *folders}):
            raise UnreadableCheckpoint(f"{place} is given for {name!r}; networks are {', '.join(sorted(known))}")
        parts[name] = _tensors(place)
    return Checkpoint(path=path, parts=MappingProxyType(parts))


def _tensors(path: Path) -> Tensors:
    """The tensors of a file, or of the files of one folder."""
    if not path.is_dir():
        if path.suffix in PICKLED:
            raise UnreadableCheckpoint(refusal(path))
        if path.suffix not in SAFETENSORS:
            raise UnreadableCheckpoint(
                f"{path} is not a .safetensors file, and engines are built from nothing else: weights are bound where "
                "they lie in it. Get the model in that format"
            )
        return read_header(path)
    if indices := sorted(path.glob("*.index*.json")):
        return _indexed(_plainest(path, indices))
    files = _weight_files(path)
    if not files:
        _refuse_folder(path)
    # One network as it is published: in one file, in several precisions beside each other ("model.fp16.safetensors"),
    # or in files of other names that belong together.
    stems = {file.name.split(".")[0] for file in files}
    return _merged([_plainest(path, files)] if len(stems) == 1 else files)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SAFETENSORS and not file.name.startswith("."))


def _plainest(folder: Path, files: list[Path]) -> Path:
    """Of the files that say the same in several precisions, the one that has no variant in its name."""
    dots = min(file.name.count(".") for file in files)
    plain = [file for file in files if file.name.count(".") == dots]
    if len(plain) > 1:
        names = ", ".join(file.name for file in plain)
        raise UnreadableCheckpoint(f"{folder} has the network several times ({names}); keep one of them there")
    return plain[0]


def _indexed(index: Path) -> Tensors:
    """The tensors of a network in several files, by its index."""
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        files = {str(name) for name in places.values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise UnreadableCheckpoint(f"{index} is no index of safetensors files: {exc!r}") from exc
    if outside := [name for name in files if Path(name).name != name]:
        raise UnreadableCheckpoint(f"{index} names files outside of its folder ({outside[0]}); it is not to be trusted")
    tensors = {name: read_header(index.parent / name) for name in sorted(files)}
    for key, name in places.items():
        if key not in tensors[name]:
            raise UnreadableCheckpoint(
                f"{index} places {key!r} in {name}, which does not have it: they are of two downloads; get both again"
            )
    return MappingProxyType({key: tensors[name][key] for key, name in places.items()})


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
    if pickles := sorted(file for file in folder.rglob("*") if file.suffix in PICKLED):
        raise UnreadableCheckpoint(refusal(pickles[0]))
    raise UnreadableCheckpoint(f"{folder} holds no .safetensors file of a network")
