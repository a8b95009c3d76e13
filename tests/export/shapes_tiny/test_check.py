"""The judge of pictures is itself judged, on pictures whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trt_export.shapes_tiny.check import judge
from trt_export.shapes_tiny.scenes import COLOURS, SHAPES, Scene, draw, held_out_scenes, random_scene


@pytest.mark.parametrize("side", [64, 128, 256])
@pytest.mark.parametrize("damage", ["none", "blur", "noise"])
def test_drawn_scenes_are_found_right(side: int, damage: str) -> None:
    random = np.random.default_rng(side)
    scenes = [random_scene(random) for _ in range(150)]

    right = [
        judge(damaged(draw(scene, side, side, random), damage, random), shape=scene.shape, colour=scene.colour).right
        for scene in scenes
    ]

    assert sum(right) >= (147 if side > 64 else 120)


@pytest.mark.parametrize("shape", SHAPES)
def test_another_shape_is_found_wrong(shape: str) -> None:
    for other in SHAPES:
        drawn = draw(Scene(shape=other, colour="red"), 128, 128)
        assert judge(drawn, shape=shape, colour="red").shape_right == (shape == other)


@pytest.mark.parametrize("colour", COLOURS)
def test_another_colour_is_found_wrong(colour: str) -> None:
    for other in COLOURS:
        drawn = draw(Scene(shape="circle", colour=other), 128, 128)
        assert judge(drawn, shape="circle", colour=colour).colour_right == (colour == other)


def test_a_plain_picture_shows_nothing() -> None:
    verdict = judge(np.full((128, 128, 3), 200, np.uint8), shape="circle", colour="red")

    assert not verdict.right
    assert "nothing" in verdict.reason


def test_noise_shows_nothing_that_was_asked_for() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)

    assert not any(judge(noise, shape=shape, colour=colour).right for shape in SHAPES for colour in COLOURS)


def test_one_wrong_shape_among_three_is_enough_to_be_wrong() -> None:
    circles = draw(Scene(shape="circle", colour="red", count=3), 128, 128).copy()
    squares = draw(Scene(shape="square", colour="red", count=3), 128, 128)
    circles[:, :45] = squares[:, :45]

    assert not judge(circles, shape="circle", colour="red").shape_right


def test_held_out_captions_are_a_hundred_and_never_trained() -> None:
    scenes = held_out_scenes()
    random = np.random.default_rng(0)
    trained = {(s.shape, s.colour, s.background) for s in (random_scene(random) for _ in range(2000))}

    assert len(set(scenes)) == 100
    assert not trained & {(s.shape, s.colour, s.background) for s in scenes}


def damaged(pixels: np.ndarray, damage: str, random: np.random.Generator) -> np.ndarray:
    match damage:
        case "blur":
            return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7)))
        case "noise":
            return np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        case _:
            return pixels
