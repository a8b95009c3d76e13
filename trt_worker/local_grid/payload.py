"""Jobs as the AIPG coordinator builds them: two parameter sets, a resolved graph, and what it all pays."""

from __future__ import annotations

import math
from typing import Any

from trt_worker.local_grid.recipe import Recipe
from trt_worker.local_grid.requests import ImageRequest

SEED_LIMIT = 2**53
DEFAULT_SIDE = 128  # pixels; the coordinator's is 1024, the model that ships here draws best at 128
CONTENT_TYPES = {"webp": "image/webp", "png": "image/png", "jpg": "image/jpeg"}


def den(width: int, height: int, steps: int | None, n: int) -> float:
    """What a job pays.

    Source: the AIPG coordinator's meter: max(round(max(w*h / 1024**2, 0.01) * max(steps, 1) * n * 0.04, 2), 0.1),
    from the payload's own figures, not the graph's.
    """
    return max(round(max(width * height / 1_048_576, 0.01) * max(steps or 1, 1) * n * 0.04, 2), 0.1)


def guess(model: str) -> tuple[int, float, str]:
    """Steps, guidance and sampler that the coordinator assumes from a model's name alone."""
    name = model.lower()
    if "klein" in name or "schnell" in name:
        return 4, 1.0, "k_euler"
    if "flux" in name:
        return 20, 3.5, "k_euler"
    return 30, 7.5, "k_euler"


def matched_size(width: int, height: int) -> tuple[int, int]:
    """Output pixels for a source image when the customer names no size.

    The aspect is kept, the area is about 1280 * 736, sides are multiples of 32 between 512 and 1280; 600 x 400 gives
    1184 x 800 as the coordinator does.
    """
    scale = math.sqrt(1280 * 736 / (width * height))

    def side(pixels: int) -> int:
        return min(max(round(pixels * scale / 32) * 32, 512), 1280)

    return side(width), side(height)


def build_payload(
    request: ImageRequest, recipe: Recipe | None, *, seed: int, size: tuple[int, int], source_url: str | None
) -> dict[str, Any]:
    """The `payload` of a job frame.

    Args:
        request: what the customer asked for.
        recipe: the graph the model runs; None: the plain parameters are the job.
        seed: of the first image, 0 <= seed < 2**53.
        size: width and height in pixels.
        source_url: where the source image can be fetched.
    """
    steps, cfg, sampler = guess(request.model)
    width, height = size
    chosen = {
        "steps": request.steps,
        "cfg": request.cfg,
        "sampler": request.sampler,
        "scheduler": request.scheduler,
        "denoise": request.denoise,
    }
    explicit = {knob: value for knob, value in chosen.items() if value is not None}
    payload: dict[str, Any] = {"prompt": request.prompt}
    if request.probe:
        payload["negative_prompt"] = request.negative_prompt or ""
    elif request.negative_prompt is not None:
        payload["negative_prompt"] = request.negative_prompt
    payload |= {
        "n": request.n,
        "width": width,
        "height": height,
        "steps": request.steps if request.steps is not None or request.probe else steps,
        "sampler_name": request.sampler if request.sampler is not None else sampler,
        "cfg_scale": request.cfg if request.cfg is not None or request.probe else cfg,
        "ext": request.ext,
        "seed": seed,
        "seeds": [(seed + index) % SEED_LIMIT for index in range(request.n)],
        "recipe_inputs": {"width": width, "height": height, **explicit},
    }
    if request.probe:
        del payload["seeds"], payload["sampler_name"]
    if source_url is not None:
        payload["source_image_url"] = source_url
    if request.loras:
        payload["loras"] = [dict(lora) for lora in request.loras]
    if recipe is None:
        return payload
    values: dict[str, Any] = {"prompt": request.prompt, "seed": seed, "width": width, "height": height, **explicit}
    if request.negative_prompt is not None:
        values["negative_prompt"] = request.negative_prompt
    payload |= {
        "recipe_engine": "comfyui",
        "recipe_spec": recipe.resolve(values),
        "recipe_root": recipe.root,
        "recipe_id": None,
        "deterministic": request.probe,
    }
    if request.loras and recipe.lora_inject is not None:
        payload["recipe_lora_inject"] = recipe.lora_inject
    if source_url is not None:
        paths = recipe.image_paths
        payload["recipe_image_inputs"] = paths[0] if len(paths) == 1 else paths
    return payload
