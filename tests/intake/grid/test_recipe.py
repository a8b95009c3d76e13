"""Graphs: what is drawn, and what is said about those that cannot be."""

from __future__ import annotations

import dataclasses
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
from trt_worker.job import SamplerNode, SourceFit
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
    assert (drawing.sampler_node, drawing.end_step) == (SamplerNode.KSAMPLER, None)
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


REPORTED = Path(__file__).parents[2] / "data" / "recipes"
AS_DRAWN = (12, 4.0, 0, (128, 128))


@pytest.mark.parametrize(
    ("report", "drawn"),
    [
        ("metadata-key-beside-the-nodes", AS_DRAWN),
        ("numbers-as-strings", (20, 7.5, 123, (128, 128))),
        ("preview-of-the-source-beside-save", AS_DRAWN),
        ("steps-with-a-fraction", (20, 4.0, 0, (128, 128))),
        ("unused-node-of-an-unknown-class", AS_DRAWN),
        ("width-not-of-eight", (12, 4.0, 0, (128, 184))),
    ],
)
def test_graphs_as_customers_have_them_are_drawn_as_comfyui_draws_them(report, drawn, a_model) -> None:
    drawing = read_recipe(json.loads((REPORTED / f"{report}.json").read_text()), a_model())

    assert (drawing.steps, drawing.guidance, drawing.seed, drawing.size) == drawn
    assert (drawing.strength, drawing.takes_source) == (1.0, False)


def test_every_report_of_a_recipe_has_its_outcome() -> None:
    assert len(list(REPORTED.glob("*.json"))) == 6  # as many as are named above


@pytest.mark.parametrize(
    "nodes",
    [
        {"n77": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "another.safetensors"}}},
        {"n77": {"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["8", 0], "upscale_model": ["78", 0]}},
         "n78": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "4x.pth"}}},
        {"n77": {"class_type": "PreviewImage", "inputs": {"images": ["78", 0]}},
         "n78": {"class_type": "FaceSwap", "inputs": {"image": ["nobody", 0]}}},
        {"n77": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}}},
        {"n77": None},
        {"n77": {"class_type": "MarkdownNote"}},
        {f"n{number}": {"class_type": "PreviewImage", "inputs": {"images": [str(max(number - 1, 8)), 0]}}
         for number in range(10, 9010) if number != 10} | {"n9": {"class_type": "SaveImage",
                                                                 "inputs": {"images": ["8", 0]}}},
    ],
    ids=["second checkpoint", "upscaler", "preview", "second save", "nothing", "note", "9,000 previews"],
)  # fmt: skip
def test_what_nothing_saved_depends_on_is_not_looked_at(nodes, a_graph, a_model) -> None:
    assert read_recipe(a_graph(**nodes), a_model()) == read_recipe(a_graph(), a_model())


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({"3.steps": 1.5}, {"steps": 1}),
        ({"3.steps": True}, {"steps": 1}),
        ({"3.steps": " 20 "}, {"steps": 20}),
        ({"3.seed": "7"}, {"seed": 7}),
        ({"3.cfg": "1e1"}, {"guidance": 10.0}),
        ({"3.denoise": "1"}, {"strength": 1.0}),
        ({"10.value": "128.0"}, None),
        ({"10.value": 130.9}, {"size": (128, 192)}),
        ({"6.text": 5}, {"prompt": "5"}),
    ],
)
def test_values_are_converted_as_comfyui_converts_them(changes, drawn, a_graph, a_model) -> None:
    if drawn is None:
        with pytest.raises(BadJob, match="whole number"):
            read_recipe(a_graph(changes), a_model())
        return
    assert read_recipe(a_graph(changes), a_model()) == dataclasses.replace(read_recipe(a_graph(), a_model()), **drawn)


@pytest.mark.parametrize("kind", ["EmptyLatentImage", "EmptySD3LatentImage", "EmptyFlux2LatentImage"])
def test_an_empty_latent_has_the_whole_cells_of_its_sides(kind, a_graph, a_model) -> None:
    empty = {"class_type": kind, "inputs": {"width": 143, "height": 190, "batch_size": 1}}

    drawing = read_recipe(a_graph({}, n5=empty), a_model())

    assert drawing.size == ((128, 176) if kind == "EmptyFlux2LatentImage" else (136, 184))


def test_the_schedule_of_flux2_takes_the_sides_uncut(a_model) -> None:
    drawing = read_recipe(flow_graph(n_9_width=1030, n_9_height=1030), a_model(files=FILES, prediction="flow"))

    assert drawing.shift == flux2_shift(1030, 1030, 8) != flux2_shift(1024, 1024, 8)


def test_where_nothing_is_saved_a_chain_of_previews_is_followed_as_far_as_links_are(a_graph, a_model) -> None:
    def previews(count: int) -> dict[str, Any]:
        graph = a_graph()
        del graph["9"]
        chain = {str(100 + number): {"class_type": "PreviewImage", "inputs": {"images": [str(99 + number), 0]}}
                 for number in range(count)}  # fmt: skip
        chain["100"]["inputs"]["images"] = ["8", 0]
        return graph | chain

    assert read_recipe(previews(4000), a_model()) == read_recipe(a_graph(), a_model())
    with pytest.raises(BadJob, match="more than 4096 links"):
        read_recipe(previews(9000), a_model())


def test_a_split_schedule_is_the_tail_of_a_longer_one(a_model) -> None:
    drawing = read_recipe(flow_graph(), a_model(files=FILES, prediction="flow"))

    assert (drawing.steps, int(drawing.steps / drawing.strength)) == (5, 8)
    assert (drawing.size, drawing.source_fit, drawing.takes_source) == ((1024, 768), SourceFit.COVER, True)
    assert (drawing.scheduler, drawing.shift) == ("simple", flux2_shift(1024, 1024, 8))
    assert drawing.sampler_node is SamplerNode.CUSTOM
    assert (drawing.prompt, drawing.negative_prompt, drawing.seed) == ("a lighthouse", "", 2**64 - 1)


@pytest.mark.parametrize(
    ("side", "steps", "mu"), [(1024, 10, 2.256246), (1024, 200, 1.149997), (1536, 4, 2.016659), (1536, 50, 2.016659)]
)
def test_the_shift_of_flux2_is_that_of_its_two_fits(side, steps, mu) -> None:
    assert math.log(flux2_shift(side, side, steps)) == pytest.approx(mu, abs=1e-6)


def test_without_a_resize_the_picture_is_as_large_as_its_source(a_model) -> None:
    drawing = read_recipe(flow_graph(n_17_pixels=["15", 0]), a_model(files=FILES, prediction="flow"))

    assert drawing.takes_source
    assert (drawing.size, drawing.source_fit) == (None, SourceFit.CUT)


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


def an_advanced_graph(a_graph, **inputs: Any) -> dict[str, Any]:
    """A source image whose schedule of 10 steps starts at step 4."""
    graph: dict[str, Any] = a_graph(

        n3={"class_type": "KSamplerAdvanced", "inputs": {
            "add_noise": "enable", "noise_seed": 5, "steps": 10, "cfg": 2, "sampler_name": "euler",
            "scheduler": "simple", "start_at_step": 4, "end_at_step": 10000, "return_with_leftover_noise": "disable",
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["31", 0]}},
        n30={"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        n31={"class_type": "VAEEncode", "inputs": {"pixels": ["30", 0], "vae": ["4", 2]}},
    )  # fmt: skip
    graph["3"]["inputs"] |= inputs
    return graph


def test_an_advanced_sampler_that_starts_late_runs_the_rest(a_graph, a_model) -> None:
    drawing = read_recipe(an_advanced_graph(a_graph, end_at_step=12), a_model())

    assert (drawing.seed, drawing.steps, int(drawing.steps / drawing.strength)) == (5, 6, 10)
    assert (drawing.sampler_node, drawing.end_step) == (SamplerNode.KSAMPLER_ADVANCED, 12)


def test_noise_is_left_over_only_where_a_schedule_may_be_longer_than_asked(a_graph, a_model) -> None:
    left = {"return_with_leftover_noise": "enable", "end_at_step": 10}

    assert read_recipe(an_advanced_graph(a_graph, **left), a_model()).steps == 6
    with pytest.raises(UnservableJob, match="leave its noise"):
        read_recipe(an_advanced_graph(a_graph, **left, scheduler="ddim_uniform"), a_model())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"3.model": ["99", 0]}, "'99'"),
        ({"10.value": ["10", 0]}, "'10'"),
        ({"3.model": ["40", 0]}, "depends on itself"),
        ({"8.samples": ["9", 0]}, "'8'"),
        ({"3.steps": "twelve"}, "'3'"),
        ({"3.steps": "20.7"}, "'3'"),
        ({"3.steps": [20]}, "'3'"),
        ({"3.steps": "9" * 5000}, "'3'"),
        ({"3.steps": 10**400}, "'3'"),
        ({"3.cfg": 10**400}, "'3'"),
        ({"3.cfg": "nan"}, "'3'"),
        ({"3.steps": float("nan")}, "'3'"),
        ({"3.steps": None}, "'3'"),
        ({"3.steps": 0}, "'3'"),
        ({"3.seed": -1}, "'3'"),
        ({"3.denoise": 0}, "'3'"),
        ({"3.positive": ["4", 1]}, "'3'"),
        ({"8.vae": ["4", 5]}, "'8'"),
        ({"8.samples": "latent"}, "'8'"),
        ({"10.value": 63}, "'5'"),
        ({"10.value": 4096}, "'5'"),
        ({"6.text": ["10", 0]}, "'6'"),
        ({"6.text": {"a": 1}}, "'6'"),
        ({"9.images": ["9", 0]}, "'9'.*depends on itself"),
        ({"3.sampler_name": ["4", 0]}, "'3'"),
    ],
)
def test_a_defect_is_told_by_its_node(changes, named, a_graph, a_model) -> None:
    circle = {"class_type": "ModelSamplingSD3", "inputs": {"shift": 3, "model": ["40", 0]}}

    with pytest.raises(BadJob, match=named) as told:
        read_recipe(a_graph(changes, n40=circle), a_model())

    assert not isinstance(told.value, UnservableJob)


def test_what_a_graph_says_is_cut_and_escaped_where_it_is_told(a_graph, a_model) -> None:
    name = "\x1b[2J\n" + "é" * 100_000
    with pytest.raises(UnreadableRecipe) as told:
        read_recipe(a_graph({"8.samples": [name, 0]}, **{name: {"class_type": name, "inputs": {}}}), a_model())

    assert len(str(told.value)) < 2000
    assert str(told.value).isprintable()
    assert str(told.value).isascii()


@pytest.mark.parametrize("spec", [None, [], {}, "graph", {"1": None}, {"1": {"class_type": 3, "inputs": {}}}])
def test_what_is_no_graph_is_a_defect(spec, a_model) -> None:
    with pytest.raises(BadJob):
        read_recipe(spec, a_model())


@pytest.mark.parametrize(
    ("changes", "nodes", "named"),
    [
        ({"9.images": ["77", 0]}, {"n77": {"class_type": "FaceSwap", "inputs": {}}}, "'77' .FaceSwap"),
        ({}, {"n9": {"class_type": "FileAway", "inputs": {}}}, "saves no image"),
        ({}, {"n77": {"class_type": "SaveImage", "inputs": {"images": ["78", 0]}},
              "n78": {"class_type": "VAEDecode", "inputs": {}}}, "2 different images"),
        ({"4.ckpt_name": "other.safetensors"}, {}, "other.safetensors"),
        ({"8.vae": ["77", 0]}, {"n77": {"class_type": "VAELoader", "inputs": {"vae_name": "other.vae"}}}, "other.vae"),
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
