"""The world of shapes-tiny: what a scene is, what it is called, and how it is drawn.

A caption says everything about its scene: what it leaves out has one fixed meaning (one shape, in the centre, of medium
size, on white), so the words alone decide the picture.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 60, 210),
    "yellow": (245, 215, 30),
    "orange": (245, 130, 20),
    "purple": (130, 40, 170),
    "pink": (245, 120, 190),
    "cyan": (30, 200, 215),
}
BACKGROUNDS = {"white": (245, 245, 245), "grey": (150, 150, 150), "black": (15, 15, 15), "brown": (95, 60, 35)}
PLACES = {
    "": (0.5, 0.5),
    "in the centre": (0.5, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top left": (0.27, 0.27),
    "at the top right": (0.73, 0.27),
    "at the bottom left": (0.27, 0.73),
    "at the bottom right": (0.73, 0.73),
}
SIZES = {"small": 0.13, "": 0.19, "large": 0.26}
"""Radius of one shape as a share of the shorter side of the picture."""

NUMBERS = {1: ("a", "one"), 2: ("two",), 3: ("three",)}
_ROW = {1: (0.5,), 2: (0.29, 0.71), 3: (0.2, 0.5, 0.8)}
_SUPERSAMPLING = 3
HELD_OUT_SHARE = 8
"""One of this many combinations of shape, colour and background is never drawn for training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Shapes of one kind and colour on a plain background."""

    shape: str
    colour: str
    background: str = "white"
    count: int = 1
    size: str = ""
    place: str = ""  # only with a count of 1

    @property
    def radius(self) -> float:
        """Of each shape, as a share of the shorter side of the picture."""
        return SIZES[self.size] * {1: 1.0, 2: 0.85, 3: 0.62}[self.count]

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination of shape, colour and background."""
        digest = hashlib.sha256(f"{self.shape}/{self.colour}/{self.background}".encode()).digest()
        return digest[0] % HELD_OUT_SHARE == 0


def caption(scene: Scene, variant: int = 0) -> str:
    """One of the ways to say a scene; `variant` 0 is the plainest."""
    number = NUMBERS[scene.count][variant % len(NUMBERS[scene.count])]
    noun = scene.shape if scene.count == 1 else {"cross": "crosses"}.get(scene.shape, f"{scene.shape}s")
    words = " ".join(word for word in (number, scene.size, scene.colour, noun) if word)
    if words.startswith("a orange"):
        words = f"an{words[1:]}"
    if scene.place:
        words = f"{words} {scene.place}"
    if scene.background != "white" or variant % 3 == 1:
        words = f"{words} on a {scene.background} background"
    prefix = ("", "a picture of ", "", "a drawing of ", "")[variant % 5]
    return f"{prefix}{words}"


def random_scene(random: np.random.Generator, *, held_out: bool = False) -> Scene:
    """A scene of the training part, or of the held-out part, of the world."""
    while True:
        count = int(random.choice([1, 1, 1, 2, 3]))
        sizes = list(SIZES) if count == 1 else ["", "small"]
        place = str(random.choice(list(PLACES))) if count == 1 and random.random() < 0.6 else ""
        size = str(random.choice(sizes))
        scene = Scene(
            shape=str(random.choice(SHAPES)),
            colour=str(random.choice(list(COLOURS))),
            background=str(random.choice(list(BACKGROUNDS))),
            count=count,
            size=size,
            place=place,
        )
        if scene.held_out == held_out:
            return scene


def practice_scene(random: np.random.Generator) -> Scene:
    """A scene to train on: of two, the one with smaller shapes, for those are learned last."""
    return min((random_scene(random) for _ in range(2)), key=lambda scene: scene.radius)


def held_out_scenes(amount: int = 100, seed: int = 2026) -> tuple[Scene, ...]:
    """Different scenes whose combination of shape, colour and background training never saw."""
    random = np.random.default_rng(seed)
    found: dict[str, Scene] = {}
    while len(found) < amount:
        scene = random_scene(random, held_out=True)
        found.setdefault(caption(scene), scene)
    return tuple(found.values())


def draw(scene: Scene, width: int, height: int, random: np.random.Generator | None = None) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        width, height: pixels.
        random: moves and resizes each shape a little; None draws the exact scene.
    Returns: uint8 [height, width, 3], anti-aliased.
    """
    scale = _SUPERSAMPLING
    canvas = Image.new("RGB", (width * scale, height * scale), BACKGROUNDS[scene.background])
    brush = ImageDraw.Draw(canvas)
    side = min(width, height) * scale
    radius = scene.radius * side
    x0, y0 = PLACES[scene.place]
    for column in _ROW[scene.count]:
        jitter = random.uniform(-0.02, 0.02, 2) if random else (0.0, 0.0)
        size = radius * (random.uniform(0.94, 1.06) if random else 1.0)
        x = (column if scene.count > 1 else x0) + jitter[0]
        y = (0.5 if scene.count > 1 else y0) + jitter[1]
        _draw_shape(brush, scene, x * width * scale, y * height * scale, size)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX))


def _draw_shape(brush: ImageDraw.ImageDraw, scene: Scene, x: float, y: float, r: float) -> None:
    colour = COLOURS[scene.colour]
    match scene.shape:
        case "circle":
            brush.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        case "ring":
            brush.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            hole = r * 0.55
            brush.ellipse((x - hole, y - hole, x + hole, y + hole), fill=BACKGROUNDS[scene.background])
        case "square":
            half = r * 0.88
            brush.rectangle((x - half, y - half, x + half, y + half), fill=colour)
        case "cross":
            arm = r * 0.34
            brush.rectangle((x - r, y - arm, x + r, y + arm), fill=colour)
            brush.rectangle((x - arm, y - r, x + arm, y + r), fill=colour)
        case "triangle":
            brush.polygon(_corners(x, y + 0.12 * r, 3, (1.15 * r,)), fill=colour)
        case "star":
            brush.polygon(_corners(x, y, 10, (1.15 * r, 0.46 * r)), fill=colour)


def _corners(x: float, y: float, number: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    angles = [2 * math.pi * corner / number - math.pi / 2 for corner in range(number)]
    return [
        (x + radii[corner % len(radii)] * math.cos(angle), y + radii[corner % len(radii)] * math.sin(angle))
        for corner, angle in enumerate(angles)
    ]
