"""What customers of both networks ask for while `strikes` throws: ordinary jobs, and ones that go other ways."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from PIL import Image

from trt_worker.job import MAX_ID_CHARACTERS
from trt_worker.local_grid.payload import build_payload
from trt_worker.local_grid.recipe import Recipe, choose_recipe
from trt_worker.local_grid.requests import HordeRequest, HordeResult, ImageRequest
from trt_worker.local_grid.server import LocalGrid

SIDE = 64
"""Of all pictures, in pixels."""

Ask = Callable[[LocalGrid], Awaitable[Any]]


def _from_grid(**changes: Any) -> Ask:
    settings: dict[str, Any] = {"width": SIDE, "height": SIDE, "steps": 3, "seed": 7, "ext": "png"}
    request = ImageRequest(**(settings | changes))
    return lambda grid: grid.submit_grid(request)


def _from_horde(**changes: Any) -> Ask:
    settings: dict[str, Any] = {"width": SIDE, "height": SIDE, "steps": 3, "seed": "7"}
    request = HordeRequest(**(settings | changes))
    return lambda grid: grid.submit_horde(request)


def _raw(**changes: Any) -> Ask:
    async def ask(grid: LocalGrid) -> Any:
        request = ImageRequest(width=SIDE, height=SIDE, steps=3)
        payload = build_payload(request, None, seed=1, size=(SIDE, SIDE), source_url=None) | changes
        return grid.coordinator.submit(model=request.model, payload=payload, probe=False)

    return ask


def _drawn_by(change: Callable[[Recipe], Recipe], **changes: Any) -> Ask:
    """A job of the image-to-image recipe in another form."""

    async def ask(grid: LocalGrid) -> Any:
        request = ImageRequest(width=SIDE, height=SIDE, steps=3)
        recipe = change(image_to_image(grid.recipes))
        key = f"sources/{grid.coordinator.new_id()}.png"
        grid.storage.add(key, a_source(), "image/png")
        url = grid.storage.address(key, seconds=600)
        payload = build_payload(request, recipe, seed=1, size=(SIDE, SIDE), source_url=url) | changes
        return grid.coordinator.submit(model=request.model, payload=payload, probe=False)

    return ask


def image_to_image(recipes: Sequence[Recipe]) -> Recipe:
    """The recipe of shapes-tiny that starts from a source image."""
    recipe = choose_recipe(recipes, "shapes-tiny", name=None, with_image=True)
    assert recipe is not None  # it ships with the local grid
    return recipe


def _node(recipe: Recipe, kind: str) -> str:
    return next(number for number, node in recipe.spec.items() if node["class_type"] == kind)


def unscaled(recipe: Recipe) -> Recipe:
    """A recipe that draws at its source image's own size."""
    encode, load = _node(recipe, "VAEEncode"), _node(recipe, "LoadImage")
    node = recipe.spec[encode]
    inputs = node["inputs"] | {"pixels": [load, 0]}
    return dataclasses.replace(recipe, spec={**recipe.spec, encode: node | {"inputs": inputs}})


def unreadable(recipe: Recipe) -> Recipe:
    """A recipe with a node that this worker does not know, which the grid's list has as well."""
    encode = _node(recipe, "VAEEncode")
    spec = {**recipe.spec, encode: recipe.spec[encode] | {"class_type": "NobodysEncode"}}
    return dataclasses.replace(recipe, name="unreadable", root="0x" + "ab" * 32, spec=spec)


def withheld(recipe: Recipe) -> Recipe:
    """A job of the root that is not served, defective in another way."""
    return dataclasses.replace(recipe, root=unreadable(recipe).root)


async def _long_id(grid: LocalGrid) -> Any:
    request = ImageRequest(width=SIDE, height=SIDE, steps=3)
    payload = build_payload(request, None, seed=1, size=(SIDE, SIDE), source_url=None)
    job_id = f"{grid.coordinator.new_id()}{'x' * MAX_ID_CHARACTERS}"
    return grid.coordinator.submit(model=request.model, payload=payload, probe=False, job_id=job_id)


async def _other_model(grid: LocalGrid) -> Any:
    """A job of a model that no connection lists, which the real coordinator bounces between them."""
    request = ImageRequest(width=SIDE, height=SIDE, steps=3)
    payload = build_payload(request, None, seed=1, size=(SIDE, SIDE), source_url=None)
    for taker in grid.coordinator.takers:
        taker.models |= {"somebody's model"}
    return grid.coordinator.submit(model="somebody's model", payload=payload, probe=False)


async def _address(grid: LocalGrid) -> Any:
    request = ImageRequest(width=SIDE, height=SIDE, steps=3)
    recipe = choose_recipe(grid.recipes, request.model, name=None, with_image=True)
    payload = build_payload(request, recipe, seed=1, size=(SIDE, SIDE), source_url="http://xn--a/")
    return grid.coordinator.submit(model=request.model, payload=payload, probe=False)


async def _pause(grid: LocalGrid) -> None:
    await anyio.sleep(2 * grid.settings.ping_seconds)


def a_source() -> bytes:
    """A source image, as a PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (40, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


EXPECTED = ("grid", "two", "source", "unscaled", "inline", "start")
JOBS: dict[str, Ask] = {
    "grid": _from_grid(),
    "two": _from_grid(n=2),
    "source": _from_grid(source_image=a_source(), denoise=0.5),
    "inline": _from_horde(extra={"r2": False}),
    "start": _from_horde(
        source_image=a_source(), source_processing="img2img", params={"denoising_strength": 0.5}, extra={"r2": False}
    ),
    "unscaled": _drawn_by(unscaled),
    "slow": _raw(steps=500),
    "surrogate": _raw(prompt="half of a pair: \ud800"),
    "long id": _long_id,
    "other model": _other_model,
    "unreadable": _drawn_by(unreadable),
    "withheld": _drawn_by(withheld, n=17),
    "sampler": _raw(sampler_name="nobody's"),
    "endless": _raw(width=3072, height=3072, steps=500, n=4, seeds=[1, 2, 3, 4]),
    "address": _address,
    "pause": _pause,
}


async def ended(ask: Ask, grid: LocalGrid) -> tuple[list[bytes] | None, Any]:
    """A job's pictures once it has ended; None: it has none."""
    result = await (await ask(grid)).result()
    if isinstance(result, HordeResult):
        pictures = [image.data for image in result.images if image.data is not None]
        return (None if result.faulted or not pictures else pictures), result
    return ([image.data for image in result.images] if result.status == 200 else None), result
