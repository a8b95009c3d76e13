"""Graphs: what is drawn, and what is said about those that cannot be."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.grid.graph import OUTPUTS, UnreadableRecipe
from trt_worker.intake.grid.recipe import flux2_shift, read_recipe
from trt_worker.local_grid import shipped_recipes

FILES = ("unet.safetensors", "clip.safetensors", "vae.safetensors")


def flow_graph(**changes: Any) -> dict[str, Any]:
    """Guider, custom sampler and FLUX.2's schedule over a source image."""
    graph: dict[str, Any] = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": FILES[0], "weight_dtype": "default"}},
        "2": {"class_type": "CLIPLoader", "inputs": {"clip_name": FILES[1], "type": "flux2"}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": FILES[2]}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": ["14", 0], "clip": ["2", 0]}},
        "5": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["4", 0]}},
        "6": {"class_type": "CFGGuider", "inputs": {"cfg": 1, "model": ["1", 0], "positive": ["4", 0],
                                                    "negative": ["5", 0]}},
        "7": {"class_type": "RandomNoise", "inputs": {"noise_seed": 2**64 - 1}},
        "8": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "9": {"class_type": "Flux2Scheduler", "inputs": {"steps": 8, "width": 1024, "height": 1024}},
        "10": {"class_type": "SplitSigmasDenoise", "inputs": {"sigmas": ["9", 0], "denoise": 0.65}},
        "11": {"class_type": "SamplerCustomAdvanced", "inputs": {
            "noise": ["7", 0], "guider": ["6", 0], "sampler": ["8", 0], "sigmas": ["10", 1],
            "latent_image": ["17", 0]}},
        "12": {"class_type": "VAEDecode", "inputs": {"samples": ["11", 0], "vae": ["3", 0]}},
        "13": {"class_type": "PreviewImage", "inputs": {"images": ["12", 0]}},
        "14": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a lighthouse"}},
        "15": {"class_type": "LoadImage", "inputs": {"image": "grid_source.png"}},
        "16": {"class_type": "ImageScale", "inputs": {
            "image": ["15", 0], "upscale_method": "lanczos", "width": 1024, "height": 768, "crop": "center"}},
        "17": {"class_type": "VAEEncode", "inputs": {"pixels": ["16", 0], "vae": ["3", 0]}},
    }  # fmt: skip
    for path, value in changes.items():
        _, node_id, name = path.split("_", 2)
        graph[node_id]["inputs"][name] = value
    return graph


def test_the_graph_says_what_is_drawn(a_graph, a_model) -> None:
    drawing = read_recipe(a_graph(), a_model())

    assert (drawing.prompt, drawing.negative_prompt, drawing.size) == ("a red circle", "blurry", (128, 192))
    assert (drawing.steps, drawing.guidance, drawing.seed) == (12, 4.0, 7)
    assert (drawing.sampler, drawing.scheduler, drawing.clip_skip) == ("euler", "karras", 1)
    assert not drawing.takes_source


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_every_shipped_recipe_can_be_read(recipe, a_model) -> None:
    drawing = read_recipe(dict(recipe.spec), a_model())

    assert drawing.takes_source == recipe.takes_image


@pytest.mark.skipif("RECIPES_DIR" not in os.environ, reason="RECIPES_DIR names no folder with the grid's recipes")
def test_the_grids_own_recipes_are_read_or_refused_for_a_reason(a_model) -> None:
    for path in sorted(Path(os.environ["RECIPES_DIR"]).glob("*.json")):
        spec = {key: node for key, node in json.loads(path.read_text()).items() if key != "_grid"}
        files = {value for node in spec.values() for name, value in node["inputs"].items() if name.endswith("_name")}
        model = a_model(files=tuple(map(str, files)), prediction="flow")
        if any(node["class_type"] == "ReferenceLatent" for node in spec.values()):
            with pytest.raises(UnreadableRecipe, match="node"):
                read_recipe(spec, model)
        else:
            assert read_recipe(spec, model).steps >= 4


def test_a_split_schedule_is_the_tail_of_a_longer_one(a_model) -> None:
    drawing = read_recipe(flow_graph(), a_model(files=FILES, prediction="flow"))

    assert (drawing.steps, int(drawing.steps / drawing.strength)) == (5, 8)
    assert (drawing.size, drawing.source_crop, drawing.takes_source) == ((1024, 768), True, True)
    assert (drawing.scheduler, drawing.shift) == ("simple", flux2_shift(1024, 1024, 8))
    assert (drawing.prompt, drawing.negative_prompt, drawing.seed) == ("a lighthouse", "", 2**64 - 1)


@pytest.mark.parametrize(
    ("side", "steps", "mu"), [(1024, 10, 2.256246), (1024, 200, 1.149997), (1536, 4, 2.016659), (1536, 50, 2.016659)]
)
def test_the_shift_of_flux2_is_that_of_its_two_fits(side, steps, mu) -> None:
    assert math.log(flux2_shift(side, side, steps)) == pytest.approx(mu, abs=1e-6)


def test_without_a_resize_the_picture_is_as_large_as_its_source(a_model) -> None:
    drawing = read_recipe(flow_graph(n_17_pixels=["15", 0]), a_model(files=FILES, prediction="flow"))

    assert drawing.takes_source
    assert drawing.size is None


def test_shift_and_clip_layer_are_read_along_the_chain(a_graph, a_model) -> None:
    graph = a_graph(
        {"3.model": ["20", 0], "6.clip": ["21", 0], "7.clip": ["21", 0]},
        n20={"class_type": "ModelSamplingSD3", "inputs": {"shift": 3, "model": ["4", 0]}},
        n21={"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["4", 1]}},
    )

    drawing = read_recipe(graph, a_model(prediction="flow"))

    assert (drawing.shift, drawing.clip_skip) == (3, 2)


@pytest.mark.parametrize(
    ("architecture", "layer"), [("stable_diffusion_1", 1), ("stable_diffusion_2_v", 2), ("sdxl", 2)]
)
def test_without_a_node_that_names_the_clip_layer_it_is_the_familys_own(a_graph, a_model, architecture, layer) -> None:
    model = a_model(architecture=architecture)
    last = {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -1, "clip": ["4", 1]}}
    own = last | {"inputs": {"stop_at_clip_layer": -layer, "clip": ["4", 1]}}

    assert read_recipe(a_graph(), model).clip_skip == layer
    assert read_recipe(a_graph({"6.clip": ["20", 0]}, n20=own), model).clip_skip == layer
    assert read_recipe(a_graph({"6.clip": ["20", 0], "7.clip": ["20", 0]}, n20=last), model).clip_skip == 1


def test_an_advanced_sampler_that_starts_late_runs_the_rest(a_graph, a_model) -> None:
    graph = a_graph(

        n3={"class_type": "KSamplerAdvanced", "inputs": {
            "add_noise": "enable", "noise_seed": 5, "steps": 10, "cfg": 2, "sampler_name": "euler",
            "scheduler": "simple", "start_at_step": 4, "end_at_step": 10000, "return_with_leftover_noise": "disable",
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["31", 0]}},
        n30={"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        n31={"class_type": "VAEEncode", "inputs": {"pixels": ["30", 0], "vae": ["4", 2]}},
    )  # fmt: skip

    drawing = read_recipe(graph, a_model())

    assert (drawing.seed, drawing.steps, int(drawing.steps / drawing.strength)) == (5, 6, 10)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"3.model": ["99", 0]}, "'99'"),
        ({"10.value": ["10", 0]}, "'10'"),
        ({"3.latent_image": ["8", 0]}, "depends on itself"),
        ({"3.steps": "twelve"}, "'3'"),
        ({"3.steps": True}, "'3'"),
        ({"3.steps": 1.5}, "'3'"),
        ({"3.steps": float("nan")}, "'3'"),
        ({"3.steps": None}, "'3'"),
        ({"3.steps": 0}, "'3'"),
        ({"3.seed": -1}, "'3'"),
        ({"3.denoise": 0}, "'3'"),
        ({"3.positive": ["4", 1]}, "'3'"),
        ({"8.vae": ["4", 5]}, "'8'"),
        ({"8.samples": "latent"}, "'8'"),
        ({"10.value": 100}, "'5'"),
        ({"10.value": 4096}, "'5'"),
        ({"6.text": ["10", 0]}, "'6'"),
        ({"3.sampler_name": ["4", 0]}, "'3'"),
    ],
)
def test_a_defect_is_told_by_its_node(changes, named, a_graph, a_model) -> None:
    with pytest.raises(BadJob, match=named) as told:
        read_recipe(a_graph(changes), a_model())

    assert not isinstance(told.value, UnservableJob)


@pytest.mark.parametrize("spec", [None, [], {}, "graph", {"1": None}, {"1": {"class_type": 3, "inputs": {}}}])
def test_what_is_no_graph_is_a_defect(spec, a_model) -> None:
    with pytest.raises(BadJob):
        read_recipe(spec, a_model())


@pytest.mark.parametrize(
    ("changes", "nodes", "named"),
    [
        ({}, {"n77": {"class_type": "FaceSwap", "inputs": {}}}, "'77' .FaceSwap"),
        ({"4.ckpt_name": "other.safetensors"}, {}, "other.safetensors"),
        ({}, {"n77": {"class_type": "VAELoader", "inputs": {"vae_name": "other.vae"}}}, "other.vae"),
        ({"3.positive": ["77", 0]}, {"n77": {"class_type": "ConditioningZeroOut", "inputs": {}}}, "'77'"),
        ({"3.model": ["77", 0]},
         {"n77": {"class_type": "ModelSamplingSD3", "inputs": {"shift": 3, "model": ["4", 0]}}}, "flow"),
        ({"3.latent_image": ["77", 0]},
         {"n77": {"class_type": "KSampler", "inputs": {"latent_image": ["5", 0]}}}, "several samplers"),
    ],
)  # fmt: skip
def test_what_is_not_served_withdraws_the_recipe(changes, nodes, named, a_graph, a_model) -> None:
    with pytest.raises(UnreadableRecipe, match=named):
        read_recipe(a_graph(changes, **nodes), a_model())


@pytest.mark.parametrize(
    "changes", [{"3.sampler_name": "magic"}, {"3.scheduler": "magic"}, {"3.denoise": 0.5}, {"3.negative": ["77", 0]}]
)
def test_a_value_that_a_customer_can_choose_does_not_condemn_the_recipe(changes, a_graph, a_model) -> None:
    zeroed = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}

    with pytest.raises(UnservableJob) as told:
        read_recipe(a_graph(changes, n77=zeroed), a_model())

    assert not isinstance(told.value, UnreadableRecipe)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=3)
    | st.tuples(st.sampled_from([str(number) for number in range(19)]), st.integers(-1, 3)).map(list)
)
NODES = ["3", "4", "5", "6", "7", "8", "9", "10"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.sampled_from(NODES), st.integers(0, 9), VALUES), min_size=1, max_size=4),
    kinds=st.lists(st.tuples(st.sampled_from(NODES), st.sampled_from(sorted(OUTPUTS))), max_size=2),
)
def test_any_edit_of_a_graph_gives_a_drawing_or_a_clear_error(edits, kinds, a_graph, a_model) -> None:
    graph = a_graph()
    for node_id, which, value in edits:
        inputs = graph[node_id]["inputs"]
        inputs[list(inputs)[which % len(inputs)]] = value
    for node_id, kind in kinds:
        graph[node_id]["class_type"] = kind

    try:
        drawing = read_recipe(graph, a_model(prediction="flow"))
    except BadJob:
        return  # any other error would show here
    assert 1 <= drawing.steps <= 500


@given(edits=st.lists(st.tuples(st.integers(1, 17), st.integers(0, 9), VALUES), min_size=1, max_size=3))
def test_any_edit_of_a_guided_graph_gives_a_drawing_or_a_clear_error(edits, a_model) -> None:
    graph = flow_graph()
    for node, which, value in edits:
        inputs = graph[str(node)]["inputs"]
        inputs[list(inputs)[which % len(inputs)]] = value

    try:
        drawing = read_recipe(graph, a_model(files=FILES, prediction="flow"))
    except BadJob:
        return  # any other error would show here
    assert 0 < drawing.strength <= 1
