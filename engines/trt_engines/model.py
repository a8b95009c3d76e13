"""A model as it lies on disk: one folder, one description, its networks and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from trt_engines.description import FILE, read_description
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
    digests: Mapping[Path, str] = field(default_factory=lambda: MappingProxyType({}))  # SHA-256 of files that have one

    def same_as(self, other: Model) -> bool:
        """Whether both say the same; as keys, models are what they are, not what they say."""
        return all(getattr(self, one.name) == getattr(other, one.name) for one in fields(self))

    @property
    def clip_skip(self) -> int:
        """The text encoders' layer, counted from the last as 1, whose state is the context of a job that names none.

        Source: the defaults of ComfyUI's loaders, of SDXL's and SD 2's text encoders -2, of the others' -1.
        """
        return 2 if self.architecture in _PENULTIMATE else 1


def read_model(folder: Path) -> Model:
    """Read `model.json` of a model folder, and check that every file it names is there; `weights` looks into them.

    Raises: ModelUnusable: the description is missing, malformed or out of range, or names a file that is missing; names
        file and field.
    """
    source = folder / FILE
    described = read_description(source)
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
        digests=MappingProxyType({folder / path: digest for path, digest in described.digests.items()}),
    )
    try:
        for path in (*model.graphs.values(), *model.weights.values(), model.vocab, model.merges, *model.digests):
            if not path.is_file():
                raise ModelUnusable(f"{source}: names {path.relative_to(folder)}, which does not exist")
    except OSError as error:
        raise ModelUnusable(f"{error.filename}: cannot be read ({error.strerror})") from error
    return model


def _give_up(error: ModelUnusable) -> None:
    raise error


def find_models(
    folders: Iterable[Path] = (), *, unusable: Callable[[ModelUnusable], None] = _give_up
) -> dict[str, Model]:
    """The models of the package and of further folders, by name; a later folder wins.

    Args:
        folders: directories that hold one model folder each; those that do not exist are passed over.
        unusable: told of each model folder that cannot be used, which is passed over then; without it, the first such
            folder raises.
    Raises: ModelUnusable: see `unusable`.
    """
    models: dict[str, Model] = {}
    for root in (BUILT_IN, *folders):
        for description in sorted(root.glob(f"*/{FILE}")):
            try:
                model = read_model(description.parent)
            except ModelUnusable as error:
                unusable(error)
            else:
                models[model.name] = model
    return models
