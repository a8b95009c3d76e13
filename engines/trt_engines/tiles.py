"""Pictures in tiles: what an autoencoder cannot take whole goes through it in overlapping parts that are blended.

A tile differs from the same part of the whole picture in two ways. Near its sides the network sees zeros in place of
what lies beyond; so the outer quarter of an overlap is not used, and tiles fade into each other over its middle half.
And its group normalisation sees the tile's mean and variance; nothing is done about that, so larger tiles are better.
How much it matters is the network's: with shapes-tiny, whose groups are a few channels, slopes and waves of 1024x768
pixels change by 9/255 on average in tiles of 768, by 22 to 27 in tiles of 512 and by 36 to 41 in tiles of 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trt_engines.bucket import Bucket

SIDES = (1024, 768, 512, 256)
"""Sides of tiles in pixels, the preferred one first."""

OVERLAP = 128
"""Pixels that neighbouring tiles have in common at least, whatever their size: it is what a network sees that counts.

Measured with shapes-tiny's decoder, whose group normalisation was given the whole picture's statistics: tiles of smooth
pictures differ from the whole by up to 32/255 with 32 pixels in common, 6.7/255 with 64 and 0.8/255 with 128.
"""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Tile:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fade:
    """How much of one tile shows: at a row and a column, the product of their weights. All tiles' add up to one."""

    rows: NDArray[np.float32]  # from the tile's top
    columns: NDArray[np.float32]  # from its left side

    @property
    def weights(self) -> NDArray[np.float32]:
        """Of all elements, [rows, columns]."""
        weights: NDArray[np.float32] = self.rows[:, np.newaxis] * self.columns
        return weights


def buckets_whole_or_tile(width: int, height: int, step: int) -> tuple[Bucket, ...]:
    """What an autoencoder may be run at for a picture, the preferred one first: all of it, then ever smaller tiles.

    Args:
        width, height: pixels.
        step: pixels: sides must be multiples of it.
    """
    sides = [side // step * step for side in SIDES]
    sizes = [(width, height), *((min(side, width), min(side, height)) for side in sides if side)]
    return tuple(Bucket(width=wide, height=high, rows=1) for wide, high in dict.fromkeys(sizes))


def tiles_of(width: int, height: int, tile: tuple[int, int], overlap: int, step: int) -> tuple[Tile, ...]:
    """Tiles that cover a picture, all of one size, row by row from the top left.

    They are as few as their overlap allows, and spread evenly: neighbours have about as much in common everywhere.

    Args:
        width, height: pixels.
        tile: width and height of a tile in pixels, at most the picture's.
        overlap: pixels that neighbours have in common at least; less than a side of theirs that is not the picture's.
        step: pixels: all of these, and where tiles begin, are multiples of it.
    Raises: ValueError: they are not, or the tiles cannot cover the picture.
    """
    wide, high = tile
    lefts, tops = _starts(width, wide, overlap, step), _starts(height, high, overlap, step)
    return tuple(Tile(top=top, left=left, height=high, width=wide) for top in tops for left in lefts)


def fades_of(tiles: tuple[Tile, ...], unit: int = 1) -> tuple[Fade, ...]:
    """How tiles are blended. Args: tiles: of `tiles_of`. unit: pixels per element along each axis."""
    rows = dict(_ramps(sorted({one.top for one in tiles}), tiles[0].height, unit))
    columns = dict(_ramps(sorted({one.left for one in tiles}), tiles[0].width, unit))
    return tuple(Fade(rows=rows[one.top], columns=columns[one.left]) for one in tiles)


def _starts(side: int, tile: int, overlap: int, step: int) -> list[int]:
    if any(length % step for length in (side, tile, overlap)):
        raise ValueError(f"{side} pixels in tiles of {tile} that overlap by {overlap}: not all are multiples of {step}")
    if not (0 < overlap < tile or tile == side) or not 0 < tile <= side:
        raise ValueError(f"{side} pixels cannot be covered by tiles of {tile} that overlap by {overlap}")
    if tile == side:
        return [0]
    gaps = -(-(side - tile) // (tile - overlap))
    return [number * ((side - tile) // step) // gaps * step for number in range(gaps + 1)]


def _ramps(starts: list[int], tile: int, unit: int) -> list[tuple[int, NDArray[np.float32]]]:
    """The weights along one axis, by where a tile begins.

    The share of all tiles from one on rises from nought to one over the middle half of its overlap with the one before
    it; a tile's own weight is its share without that of the next one.
    """
    middles = np.arange(0, starts[-1] + tile, unit) + unit / 2
    shares = [np.ones(len(middles))]
    for before, start in pairwise(starts):
        margin = (before + tile - start) / 4
        shares.append(np.clip((middles - start - margin) / (2 * margin), 0, 1))
    shares.append(np.zeros(len(middles)))
    weights = [(share - rest).astype(np.float32) for share, rest in pairwise(shares)]
    return [(start, own[start // unit :][: tile // unit]) for start, own in zip(starts, weights, strict=True)]
