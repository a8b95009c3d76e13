"""A model as it lies on disk: one folder, one description, and the files of its networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from trt_engines.architectures.architecture import Architecture
from trt_engines.architectures.noise_levels import NoiseLevels
from trt_engines.architectures.registry import UnknownArchitecture, architecture
from trt_engines.description import FILE, Description, read_description
from trt_engines.errors import ModelUnusable

BUILT_IN = Path(__file__).parent / "models"
"""Models that ship with the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFiles:
    """The files of one network; paths are absolute."""

    graph: Path | None  # ONNX, whose weights are external data of files in the model's folder
    weights: tuple[Path, ...]  # files in the model's folder that hold its weights, links to the checkpoint among them
    bindings: Path | None = None  # where each weight lies in those files, for PyTorch
    digest: str = ""  # SHA-256 over all weights, by which engines are found; empty: nobody has computed it
    parameters: int | None = None  # number of its weights; None: as many as the architecture's own size has


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """What the worker must know to run a model; paths are absolute."""

    name: str
    folder: Path
    architecture: str  # a name of `architectures.registry`
    networks: Mapping[str, NetworkFiles]  # by the architecture's names
    checkpoint_files: frozenset[str]  # file names under which recipes ask for this model
    native_width: int  # pixels the model draws best at
    native_height: int
    prediction: str | None = None  # of its first denoiser; None: the architecture's
    shift: float | None = None  # time shift of a flow model; None: the architecture's
    zero_terminal_snr: bool = False  # its noise levels end in nothing but noise
    sigma_min: float | None = None  # of EDM's noise levels; None: they are the architecture's
    sigma_max: float | None = None
    digests: Mapping[Path, str] = field(default_factory=lambda: MappingProxyType({}))  # SHA-256 of files that have one

    def same_as(self, other: Model) -> bool:
        """Whether both say the same; as keys, models are what they are, not what they say."""
        return all(getattr(self, one.name) == getattr(other, one.name) for one in fields(self))

    @property
    def facts(self) -> Architecture:
        """Its architecture, with the noise levels that this model has."""
        return _facts(
            self.architecture, self.prediction, self.shift, self.zero_terminal_snr, self.sigma_min, self.sigma_max
        )

    @property
    def levels(self) -> NoiseLevels:
        """The noise levels of its first pass."""
        return self.facts.passes[0].levels

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files of all networks' weights, each once."""
        return tuple(dict.fromkeys(file for network in self.networks.values() for file in network.weights))

    @property
    def clip_skip(self) -> int:
        """The text encoders' layer, counted from the last as 1, whose state is the context of a job that names none."""
        layers = (encoder.clip_skip for encoder in self.facts.prompting.encoders)
        return next((layer for layer in layers if layer is not None), 1)


@lru_cache(maxsize=256)
def _facts(
    name: str,
    prediction: str | None,
    shift: float | None,
    zero_terminal_snr: bool,
    sigma_min: float | None,
    sigma_max: float | None,
) -> Architecture:
    return architecture(name).predicting(
        prediction, shift=shift, zero_terminal_snr=zero_terminal_snr, sigma_min=sigma_min, sigma_max=sigma_max
    )


def read_model(folder: Path) -> Model:
    """Read `model.json` of a model folder, and check that every file it names is there; `weights` looks into them.

    Raises: ModelUnusable: the description is missing, malformed or out of range, or names a file that is missing; names
        file and field.
    """
    source = folder / FILE
    described = read_description(source)
    _check_architecture(described, source)
    side = architecture(described.architecture).native_side

    def placed(path: str | None) -> Path | None:
        return None if path is None else folder / path

    model = Model(
        name=described.name,
        folder=folder,
        architecture=described.architecture,
        networks=MappingProxyType(
            {
                name: NetworkFiles(
                    graph=placed(files.graph),
                    weights=tuple(folder / path for path in files.weights),
                    bindings=placed(files.bindings),
                    digest=files.digest,
                    parameters=files.parameters,
                )
                for name, files in described.networks.items()
            }
        ),
        checkpoint_files=frozenset(described.files.values()),
        native_width=described.native_width or side,
        native_height=described.native_height or side,
        prediction=described.prediction,
        shift=described.shift,
        zero_terminal_snr=described.zero_terminal_snr,
        sigma_min=described.sigma_min,
        sigma_max=described.sigma_max,
        digests=MappingProxyType({folder / path: digest for path, digest in described.digests.items()}),
    )
    try:
        _ = model.facts
    except ValueError as error:
        raise ModelUnusable(f"{source}: its noise levels contradict each other: {error}") from error
    others = (path for one in model.networks.values() for path in (one.graph, one.bindings) if path is not None)
    try:
        for path in (*others, *model.weight_files, *model.digests):
            if not path.is_file():
                raise ModelUnusable(_missing(source, path))
    except OSError as error:
        raise ModelUnusable(f"{error.filename}: cannot be read ({error.strerror})") from error
    return model


def _check_architecture(described: Description, source: Path) -> None:
    """Raises: ModelUnusable: the architecture is none we know, or the networks are not its own."""
    try:
        known = architecture(described.architecture)
    except UnknownArchitecture as error:
        raise ModelUnusable(f"{source}: architecture: {error}") from error
    names = {network.name for network in known.networks}
    if unknown := sorted(set(described.networks) - names):
        raise ModelUnusable(f"{source}: {known.title} has no network {unknown[0]!r}; it has {', '.join(sorted(names))}")
    if missing := sorted(known.needed - set(described.networks)):
        raise ModelUnusable(f"{source}: network {missing[0]!r} is missing, without which {known.title} draws nothing")


def _missing(source: Path, path: Path) -> str:
    """What is said of a file that a description names and that is not there."""
    if path.is_symlink():
        return (
            f"{source}: {path.name} is a link to {path.readlink()}, which is not there any more: put the file back, or "
            "remove the model (./horde-bridge.sh models remove)"
        )
    return f"{source}: names {path.relative_to(source.parent)}, which does not exist"


def _give_up(error: ModelUnusable) -> None:
    raise error


def model_folders(*roots: Path) -> Iterator[Path]:
    """The model folders in some directories, by name within each; directories that do not exist have none.

    Folders whose names begin with a dot are none: models that are being added.
    """
    for root in roots:
        yield from sorted(file.parent for file in root.glob(f"[!.]*/{FILE}"))


def find_models(
    folders: Iterable[Path] = (), *, unusable: Callable[[ModelUnusable], None] = _give_up
) -> dict[str, Model]:
    """The models of the package and of further folders, by name; a later folder wins.

    Args:
        folders: directories of model folders, see `model_folders`.
        unusable: told of each model folder that cannot be used, which is passed over then; without it, the first such
            folder raises.
    Raises: ModelUnusable: see `unusable`.
    """
    models: dict[str, Model] = {}
    for folder in model_folders(BUILT_IN, *folders):
        try:
            model = read_model(folder)
        except ModelUnusable as error:
            unusable(error)
        else:
            models[model.name] = model
    return models
