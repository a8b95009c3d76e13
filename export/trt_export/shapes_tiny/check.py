"""A plain look at a picture: are the shapes on it those that were asked for, and of the right colour?

No network judges another here. The background is what the border mostly is; what differs from it are the shapes; each
is laid over the six drawn ones, and its mean colour is compared with the named ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from trt_export.shapes_tiny.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, draw

CONTRAST = 55.0
"""Distance in RGB from the background from which a pixel belongs to a shape."""

LEAST_AREA = 0.002
"""Share of the picture below which a spot is dirt and no shape."""

LEAST_OVERLAP = 0.62
"""Overlap with the best drawn shape below which a spot is no shape at all."""

_SIDE = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found."""

    shape_right: bool
    colour_right: bool
    reason: str

    @property
    def right(self) -> bool:
        return self.shape_right and self.colour_right


def judge(pixels: NDArray[np.uint8], *, shape: str, colour: str) -> Verdict:
    """Judge a picture.

    Args:
        pixels: uint8 [height, width, 3].
        shape, colour: of every shape on the picture; see `SHAPES` and `COLOURS`.
    """
    picture = pixels.astype(np.float32)
    border = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3), picture[:, :2].reshape(-1, 3)])
    background = np.median(border, axis=0)
    mask = ndimage.binary_opening(np.linalg.norm(picture - background, axis=2) > CONTRAST)
    spots = _spots(mask)
    if not spots:
        return Verdict(shape_right=False, colour_right=False, reason="nothing stands out from the background")
    shapes = [_shape_of(labels[place]) for place, labels in spots]
    colours = [_colour_of(picture, labels) for _, labels in spots]
    return Verdict(
        shape_right=all(found == shape for found in shapes),
        colour_right=all(found == colour for found in colours),
        reason=f"{', '.join(f'{c} {s}' for c, s in zip(colours, shapes, strict=True))} instead of {colour} {shape}",
    )


def _spots(mask: NDArray[np.bool_]) -> list[tuple[tuple[slice, ...], NDArray[np.bool_]]]:
    """Connected spots that are large enough, with the part of the picture each is in."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1)) if count else []
    least = max(LEAST_AREA * mask.size, 0.2 * max(areas, default=0))
    places = ndimage.find_objects(labels)
    return [(places[number], labels == number + 1) for number in range(count) if areas[number] >= least]


def _shape_of(spot_mask: NDArray[np.bool_]) -> str:
    spot = _normalised(spot_mask)
    overlaps = {name: _overlap(spot, template) for name, template in _templates().items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    return best if overlaps[best] >= LEAST_OVERLAP else "something"


def _colour_of(picture: NDArray[np.float32], labels: NDArray[np.bool_]) -> str:
    inside = ndimage.binary_erosion(labels)
    mean = picture[inside if inside.any() else labels].mean(axis=0)
    named = COLOURS | BACKGROUNDS
    return min(named, key=lambda name: float(np.linalg.norm(mean - np.array(named[name]))))


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def _normalised(spot: NDArray[np.bool_]) -> NDArray[np.bool_]:
    image = Image.fromarray(spot.astype(np.uint8) * 255).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


@lru_cache(maxsize=1)
def _templates() -> dict[str, NDArray[np.bool_]]:
    templates = {}
    for shape in SHAPES:
        drawn = draw(Scene(shape=shape, colour="red", background="black", size="large"), 256, 256)
        mask = drawn[:, :, 0] > 110
        (place,) = ndimage.find_objects(mask.astype(int))
        templates[shape] = _normalised(mask[place])
    return templates
