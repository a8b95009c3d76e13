"""A model as it lies on disk: one folder, one description, its networks and tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import msgspec

from trt_engines.errors import ModelUnusable

BUILT_IN = Path(__file__).parent / "models"
"""Models that ship with the package."""


_PENULTIMATE = frozenset({"sdxl", "stable_diffusion_2", "stable_diffusion_2_v", "stable_diffusion_2_inpainting"})
"""Architectures that were trained on the last but one layer of their text encoders."""


class Component(StrEnum):
    """The networks a model is made of."""

    TEXT_ENCODER = "text_encoder"
    DENOISER = "denoiser"
    VAE_DECODER = "vae_decoder"
    VAE_ENCODER = "vae_encoder"


class _Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    graph: str
    weights: str


class _Tokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vocab: str
    merges: str


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    architecture: str
    prediction: str
    latent_channels: int
    latent_scale: int
    context_width: int
    native_width: int
    native_height: int
    files: dict[str, str]
    components: dict[str, _Network]
    tokenizer: _Tokenizer
    shift: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """What the worker must know to run a model; paths are absolute."""

    name: str
    folder: Path
    architecture: str  # "stable_diffusion_1", ...
    prediction: str  # "epsilon", "v_prediction" or "flow"
    latent_channels: int
    latent_scale: int  # pixels per latent cell and axis
    context_width: int  # features per text token
    native_width: int  # pixels the model draws best at
    native_height: int
    checkpoint_files: frozenset[str]  # file names under which recipes ask for this model
    graphs: Mapping[Component, Path]
    weights: Mapping[Component, Path]
    vocab: Path
    merges: Path
    shift: float = 1.0  # time shift of a flow model, unless a job wants another; 1: none

    @property
    def clip_skip(self) -> int:
        """The text encoders' layer, counted from the last as 1, whose state is the context of a job that names none.

        Source: the defaults of ComfyUI's loaders, of SDXL's and SD 2's text encoders -2, of the others' -1.
        """
        return 2 if self.architecture in _PENULTIMATE else 1


def read_model(folder: Path) -> Model:
    """Read `model.json` of a model folder and check that every file it names is there.

    Raises: ModelUnusable: the description is missing, malformed, or names a file that does not exist.
    """
    source = folder / "model.json"
    try:
        described = msgspec.json.decode(source.read_bytes(), type=_Description)
    except OSError as error:
        raise ModelUnusable(
            f"{source}: cannot be read ({error.strerror}); a model folder needs a model.json"
        ) from error
    except msgspec.MsgspecError as error:
        raise ModelUnusable(f"{source}: {error}") from error
    known = {component.value for component in Component}
    unknown = sorted(set(described.components) - known)
    if unknown:
        raise ModelUnusable(f"{source}: unknown component {unknown[0]!r}; known are {', '.join(sorted(known))}")
    missing = sorted({"text_encoder", "denoiser", "vae_decoder"} - set(described.components))
    if missing:
        raise ModelUnusable(f"{source}: component {missing[0]!r} is missing")
    networks = {Component(name): network for name, network in described.components.items()}
    model = Model(
        name=described.name,
        folder=folder,
        architecture=described.architecture,
        prediction=described.prediction,
        latent_channels=described.latent_channels,
        latent_scale=described.latent_scale,
        context_width=described.context_width,
        native_width=described.native_width,
        native_height=described.native_height,
        checkpoint_files=frozenset(described.files.values()),
        graphs=MappingProxyType({component: folder / network.graph for component, network in networks.items()}),
        weights=MappingProxyType({component: folder / network.weights for component, network in networks.items()}),
        vocab=folder / described.tokenizer.vocab,
        merges=folder / described.tokenizer.merges,
        shift=described.shift,
    )
    for path in (*model.graphs.values(), *model.weights.values(), model.vocab, model.merges):
        if not path.is_file():
            raise ModelUnusable(f"{source}: names {path.relative_to(folder)}, which does not exist")
    return model


def find_models(folders: Iterable[Path] = ()) -> dict[str, Model]:
    """Every usable model of the package and of further folders, by name; a later folder wins.

    Args:
        folders: directories that hold one model folder each; those that do not exist are passed over.
    Raises: ModelUnusable: a folder with a model.json that cannot be used.
    """
    models: dict[str, Model] = {}
    for root in (BUILT_IN, *folders):
        for description in sorted(root.glob("*/model.json")):
            model = read_model(description.parent)
            models[model.name] = model
    return models
