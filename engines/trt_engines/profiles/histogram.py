"""What jobs ask for, and how often: read from a tally of served jobs, or built in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from trt_engines.errors import EngineError

FORMAT = 1
"""Version of the file format; a file with another one is refused."""


class HistogramUnusable(EngineError):
    """A histogram is empty or malformed; the message names the file and the field."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Demand:
    """One shape that jobs ask for."""

    width: int  # pixels
    height: int  # pixels
    rows: int  # denoiser rows of one job: images times guidance rows
    tokens: int  # text tokens of a row, before padding
    weight: float = 1.0  # share of jobs, or a count of them: only ratios matter

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Everything but the weight."""
        return (self.width, self.height, self.rows, self.tokens)

    @property
    def label(self) -> str:
        """Short name of the shape, as in `512x768r2t77`."""
        return f"{self.width}x{self.height}r{self.rows}t{self.tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Demands of distinct shapes in ascending order, their weights adding up to one."""

    demands: tuple[Demand, ...]

    @classmethod
    def of(cls, demands: Iterable[Demand]) -> Histogram:
        """Merge demands of one shape, drop those of weight zero, and normalise the rest.

        Raises: HistogramUnusable: nothing is left, or a size or a weight is out of range.
        """
        weights: defaultdict[tuple[int, int, int, int], float] = defaultdict(float)
        for demand in demands:
            if min(demand.shape) < 1:
                raise HistogramUnusable(f"demand {demand.label}: width, height, rows and tokens are at least 1")
            if not 0 <= demand.weight < float("inf"):
                raise HistogramUnusable(f"demand {demand.label}: weight {demand.weight} is not a finite number >= 0")
            weights[demand.shape] += demand.weight
        total = sum(weights.values())
        if not 0 < total < float("inf"):
            raise HistogramUnusable(
                "a histogram needs at least one demand of positive weight, and weights that can be added up"
            )
        return cls(
            demands=tuple(
                Demand(width=shape[0], height=shape[1], rows=shape[2], tokens=shape[3], weight=weight / total)
                for shape, weight in sorted(weights.items())
                if weight / total > 0
            )
        )

    def blended(self, other: Histogram, share: float) -> Histogram:
        """This histogram with `other` mixed in at `share` (0..1) of the whole.

        A tally of one quiet week has holes; a share of the default histogram keeps rare sizes covered.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share is a fraction from 0 to 1, and this one is {share}")
        return Histogram.of(
            [
                *(replace(demand, weight=demand.weight * (1 - share)) for demand in self.demands),
                *(replace(demand, weight=demand.weight * share) for demand in other.demands),
            ]
        )


_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Demand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    width: _Positive
    height: _Positive
    rows: _Positive
    tokens: _Positive
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    demands: list[_Demand]


def read_histogram(path: Path) -> Histogram:
    """Read `{"version": 1, "demands": [{"width", "height", "rows", "tokens", "weight"}, ...]}`.

    Raises: HistogramUnusable: the file cannot be read, is malformed, of another version, or says nothing.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise HistogramUnusable(
            f"{path}: cannot be read ({error.strerror}); leave it out to plan for the default histogram"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HistogramUnusable(f"{path}: {error}") from error
    if file.version != FORMAT:
        raise HistogramUnusable(f"{path}: version {file.version} is not known here; this release reads {FORMAT}")
    try:
        return Histogram.of(
            Demand(width=d.width, height=d.height, rows=d.rows, tokens=d.tokens, weight=d.weight) for d in file.demands
        )
    except HistogramUnusable as error:
        raise HistogramUnusable(f"{path}: {error}") from error


def write_histogram(path: Path, demands: Iterable[Demand]) -> None:
    """Write demands in the form that `read_histogram` takes; weights may be counts. Raises: OSError."""
    rows = [
        _Demand(width=d.width, height=d.height, rows=d.rows, tokens=d.tokens, weight=d.weight) for d in sorted(demands)
    ]
    path.write_bytes(msgspec.json.format(msgspec.json.encode(_File(version=FORMAT, demands=rows)), indent=1) + b"\n")
