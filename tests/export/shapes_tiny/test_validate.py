"""Choices are made on captions that neither training nor the figure uses."""

from __future__ import annotations

import numpy as np

from trt_export.shapes_tiny.networks import load_model
from trt_export.shapes_tiny.scenes import Scene, caption, draw, held_out_scenes
from trt_export.shapes_tiny.validate import count_backgrounds, count_right, paint, validation_scenes
from trt_export.shapes_tiny.vocabulary import FOLDER


def test_validation_scenes_are_never_trained_and_never_judged() -> None:
    scenes = validation_scenes(200)

    assert len({caption(scene) for scene in scenes}) == 200
    assert all(scene.held_out for scene in scenes)
    assert not {caption(scene) for scene in scenes} & {caption(scene) for scene in held_out_scenes()}


def test_drawn_scenes_count_as_right_and_others_as_wrong() -> None:
    scenes = (Scene(shape="circle", colour="red"), Scene(shape="star", colour="blue", background="black"))
    drawn = np.stack([draw(scene, 128, 128) for scene in scenes])

    assert (count_right(drawn, scenes), count_backgrounds(drawn, scenes)) == (2, 2)
    assert (count_right(drawn, scenes[::-1]), count_backgrounds(drawn, scenes[::-1])) == (0, 0)


def test_what_ships_paints_what_a_caption_asks_for() -> None:
    model, vae = load_model(FOLDER.parent)
    scene = Scene(shape="circle", colour="blue", size="large")

    assert count_right(paint(model, vae, [scene]), [scene]) == 1
