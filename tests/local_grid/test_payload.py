"""Jobs are built as the coordinator builds them."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import Any

import aiohttp
import orjson
import pytest
from PIL import Image

from trt_worker.local_grid import ImageRequest, LocalGrid, read_recipe, shipped_recipes
from trt_worker.local_grid.payload import build_payload, den, guess, matched_size
from trt_worker.local_grid.recipe import SHIPPED, Recipe, choose_recipe


def a_payload(request: ImageRequest, recipe: Recipe | None = None, **fields: Any) -> dict[str, Any]:
    return build_payload(request, recipe, **({"seed": 7, "size": (256, 192), "source_url": None} | fields))


@pytest.mark.parametrize(
    ("width", "height", "steps", "n", "expected"),
    [
        (1024, 1024, 30, 1, 1.2),
        (1024, 1024, 4, 1, 0.16),
        (1024, 1024, 8, 1, 0.32),
        (768, 768, 8, 4, 0.72),
        (832, 1216, 12, 2, 0.93),
        (64, 64, 1, 1, 0.1),
        (64, 64, 80, 4, 0.13),
        (1536, 1536, 80, 4, 28.8),
    ],
)
def test_den_is_what_the_coordinator_paid(width: int, height: int, steps: int, n: int, expected: float) -> None:
    assert den(width, height, steps, n) == expected


def test_a_source_image_sets_the_size_when_the_customer_does_not() -> None:
    assert matched_size(600, 400) == (1184, 800)


def test_the_name_decides_the_misleading_parameters() -> None:
    assert guess("FLUX.2 Klein 4B FP8") == (4, 1.0, "k_euler")
    assert guess("FLUX.1-dev")[:2] == (20, 3.5)
    assert guess("z-image-turbo") == (30, 7.5, "k_euler")


def test_a_recipe_job_says_one_thing_on_top_and_another_in_its_graph() -> None:
    recipe = shipped_recipes()[0]

    payload = a_payload(ImageRequest(prompt="a star"), recipe)
    sampler = payload["recipe_spec"]["3"]["inputs"]

    assert (payload["steps"], payload["cfg_scale"], payload["sampler_name"]) == (30, 7.5, "k_euler")
    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"], sampler["seed"]) == (12, 4.0, "euler", 7)
    assert payload["recipe_spec"]["6"]["inputs"]["text"] == "a star"
    assert payload["recipe_spec"]["5"]["inputs"]["width"] == ["10", 0]
    assert payload["recipe_spec"]["10"]["inputs"]["value"] == 256
    assert payload["recipe_spec"]["11"]["inputs"]["value"] == 192
    assert payload["recipe_inputs"] == {"width": 256, "height": 192}
    assert "negative_prompt" not in payload
    assert "_grid" not in payload["recipe_spec"]


def test_what_the_customer_sets_is_clamped_and_written_into_the_graph_and_repeated_on_top() -> None:
    request = ImageRequest(steps=500, cfg=2.0, sampler="no such", scheduler="karras", negative_prompt="blurry")

    payload = a_payload(request, shipped_recipes()[0])
    sampler = payload["recipe_spec"]["3"]["inputs"]

    assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"], sampler["scheduler"]) == (
        50, 2.0, "euler", "karras",
    )  # fmt: skip
    assert payload["steps"] == 500
    assert payload["recipe_spec"]["7"]["inputs"]["text"] == "blurry"
    assert payload["recipe_inputs"]["scheduler"] == "karras"


def test_a_recipe_less_job_carries_plain_parameters_only() -> None:
    request = ImageRequest(model="My Custom", n=2, steps=12, cfg=4.5, sampler="k_dpmpp_2m", scheduler="karras")

    assert a_payload(request, seed=2**53 - 1) == {
        "prompt": "a red circle",
        "n": 2,
        "width": 256,
        "height": 192,
        "steps": 12,
        "sampler_name": "k_dpmpp_2m",
        "cfg_scale": 4.5,
        "ext": "webp",
        "seed": 2**53 - 1,
        "seeds": [2**53 - 1, 0],
        "recipe_inputs": {
            "width": 256, "height": 192, "steps": 12, "cfg": 4.5, "sampler": "k_dpmpp_2m", "scheduler": "karras",
        },
    }  # fmt: skip


def test_a_prompt_is_cut_in_the_graph_and_nowhere_else() -> None:
    payload = a_payload(ImageRequest(prompt="x" * 9_000), shipped_recipes()[0])

    assert len(payload["prompt"]) == 9_000
    assert len(payload["recipe_spec"]["6"]["inputs"]["text"]) == 8_000


def test_a_root_is_the_digest_of_the_whole_file_in_canonical_form() -> None:
    text = (SHIPPED / "shapes-tiny.json").read_bytes()
    canonical = json.dumps(orjson.loads(text), sort_keys=True, separators=(",", ":"))

    assert read_recipe(text).root == "0x" + hashlib.sha256(canonical.encode()).hexdigest()
    assert len({recipe.root for recipe in shipped_recipes()}) == len(shipped_recipes()) == 4


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_every_link_and_variable_of_a_shipped_graph_leads_somewhere(recipe: Recipe) -> None:
    for node in recipe.spec.values():
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[0] in recipe.spec
    for path in recipe.variables.values():
        node_id, _, name = str(path).partition(".inputs.")
        assert name in recipe.spec[node_id]["inputs"]
    files = recipe.describe()["model_files"]
    assert files == ["shapes-tiny.safetensors"]


def test_a_model_without_the_recipe_a_request_needs_is_refused() -> None:
    recipes = shipped_recipes()

    assert choose_recipe(recipes, "shapes-tiny", name=None, with_image=True).takes_image  # type: ignore[union-attr]
    assert choose_recipe(recipes, "My Custom", name=None, with_image=False) is None
    with pytest.raises(LookupError, match="no recipe named 'nothing'"):
        choose_recipe(recipes, "shapes-tiny", name="nothing", with_image=False)


@pytest.mark.anyio
async def test_a_source_image_is_served_and_its_place_in_the_graph_is_named() -> None:
    buffer = BytesIO()
    Image.new("RGB", (600, 400), "red").save(buffer, "PNG")
    async with LocalGrid() as grid:
        handle = await grid.submit_grid(ImageRequest(source_image=buffer.getvalue(), denoise=0.5))
        payload = handle.payload

        assert (payload["width"], payload["height"]) == (1184, 800)
        assert payload["recipe_image_inputs"] == "10.inputs.image"
        assert payload["recipe_spec"]["3"]["inputs"]["denoise"] == 0.5
        with pytest.raises(ValueError, match="takes no source image"):
            await grid.submit_grid(ImageRequest(model="My Custom", source_image=buffer.getvalue()))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 10**6}, "n is 1000000; the grid takes 1 to 4 images a request"),
        ({"n": 0}, "n is 0"),
        ({"ext": "gif"}, "ext is 'gif'; the grid knows webp, png, jpg"),
    ],
)
async def test_what_the_api_answers_with_422_is_refused_before_any_worker_sees_it(
    changes: dict[str, Any], said: str
) -> None:
    async with LocalGrid() as grid, aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match=said):
            await grid.submit_grid(ImageRequest(**changes))
        async with session.post(f"{grid.url}/local/images", json=changes) as answer:
            assert answer.status == 422
            assert said in (await answer.json())["message"]
