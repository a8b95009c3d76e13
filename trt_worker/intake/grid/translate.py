"""A job frame in the worker's own terms.

A recipe job is what its graph says; a job without a recipe is what its plain parameters say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_engines.model import Model
from trt_worker.delivery import UploadSlot
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.grid import frames
from trt_worker.intake.grid.graph import UnreadableRecipe
from trt_worker.intake.grid.recipe import (
    LARGEST_SIDE,
    MOST_GUIDANCE,
    MOST_STEPS,
    SEED_LIMIT,
    SMALLEST_SIDE,
    Drawing,
    read_recipe,
)
from trt_worker.job import MAX_PROMPT_CHARACTERS, ImageFormat, ImageSeed, JobSpec
from trt_worker.sampler_names import canonical_sampler, canonical_scheduler

MOST_IMAGES = 4
MOST_PIXELS = (LARGEST_SIDE + SMALLEST_SIDE) ** 2
"""Of a source image that gives the picture its size: the largest picture and what whole latent cells leave of one."""
NUMBERED_SEEDS = 2**53
"""The seeds of a job's further images wrap around here: the largest whole number JSON keeps exactly, plus one."""

_FORMATS = {"webp": ImageFormat.WEBP, "png": ImageFormat.PNG, "jpg": ImageFormat.JPEG, "jpeg": ImageFormat.JPEG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A job whose source image is still to be fetched."""

    job: JobSpec
    slots: tuple[UploadSlot, ...]
    source_url: str | None = field(repr=False)  # its query string is a credential
    cell: int = 8  # pixels of a latent cell per axis
    sized_by_source: bool = False  # the picture is as large as the source image


def find_model(name: object, models: Mapping[str, Model]) -> Model | None:
    """The model a job names, in any case."""
    wanted = name.casefold() if isinstance(name, str) else None
    return next((model for ours, model in models.items() if ours.casefold() == wanted), None)


def to_draft(frame: frames.Job, model: Model, *, received: float, due: float, allow_img2img: bool = True) -> Draft:
    """The job but for its source image.

    Args:
        model: what `frame.model` names.
        received, due: time.monotonic() seconds.
    Raises: BadJob: a field is missing or out of range, or the graph is defective.
        UnreadableRecipe: no job with this graph can be served. UnservableJob: this one cannot.
    """
    payload = frame.payload
    if frame.job_type != "image":
        raise UnservableJob(f"job {frame.id} is of type {frame.job_type!r}; this worker makes images")
    if not isinstance(payload, dict):
        raise BadJob(f"job {frame.id} has no payload")
    if payload.get("loras"):
        raise UnservableJob(f"job {frame.id} asks for loras, which this worker does not serve")
    count = _whole(payload, "n", 1, MOST_IMAGES, default=1)
    image_format = _format(payload.get("ext"))
    drawing = _drawing(frame.id, payload, model)
    source_url = _source_url(frame.id, payload, drawing, allow_img2img=allow_img2img)
    width, height = drawing.size or (SMALLEST_SIDE, SMALLEST_SIDE)
    job = JobSpec(
        id=frame.id,
        model=model.name,
        prompt=drawing.prompt[:MAX_PROMPT_CHARACTERS],
        negative_prompt=drawing.negative_prompt[:MAX_PROMPT_CHARACTERS],
        width=width,
        height=height,
        steps=drawing.steps,
        guidance=drawing.guidance,
        sampler=drawing.sampler,
        scheduler=drawing.scheduler,
        sampler_node=drawing.sampler_node,
        end_step=drawing.end_step,
        strength=drawing.strength,
        clip_skip=drawing.clip_skip,
        shift=drawing.shift,
        seeds=_seeds(payload, count, drawing.seed),
        source_fit=drawing.source_fit,
        format=image_format,
        received=received,
        due=due,
    )
    return Draft(
        job=job,
        slots=_slots(frame.upload, count, image_format),
        source_url=source_url,
        cell=model.facts.size_step,
        sized_by_source=drawing.size is None,
    )


def with_source(draft: Draft, data: bytes, size: tuple[int, int] | None = None) -> JobSpec:
    """The job with its source image, whose header was checked.

    Args:
        size: width and height of the decoded source image; only of a draft that is sized by it.
    Raises: BadJob: the picture would be as large as the source image, and that is out of range.
    """
    job = draft.job
    if draft.sized_by_source:
        assert size is not None  # whoever fetched the image has measured it
        width, height = (side // draft.cell * draft.cell for side in size)  # the rest of a latent cell is cut off
        for side in (width, height):
            if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                raise BadJob(
                    f"job {job.id} draws at its source image's size, {width}x{height}; sides of {SMALLEST_SIDE} to "
                    f"{LARGEST_SIDE} are served"
                )
        job = dataclasses.replace(job, width=width, height=height)
    return dataclasses.replace(job, source=data)


def guess(model: str) -> tuple[int, float, str]:
    """Steps, guidance and sampler of a job that names none, from the model's name.

    Source: the AIPG coordinator, which guesses the same wherever a customer leaves them out.
    """
    name = model.lower()
    if "klein" in name or "schnell" in name:
        return 4, 1.0, "euler"
    if "flux" in name:
        return 20, 3.5, "euler"
    return 30, 7.5, "euler"


def _drawing(job_id: str, payload: Mapping[str, Any], model: Model) -> Drawing:
    engine, spec = payload.get("recipe_engine"), payload.get("recipe_spec")
    if engine is None and spec is None:
        return _plain(job_id, payload, model)
    if engine is not None and engine != "comfyui":
        raise UnreadableRecipe(f"job {job_id} has a recipe for {engine!r}; ComfyUI graphs are served")
    return read_recipe(spec, model)


def _plain(job_id: str, payload: Mapping[str, Any], model: Model) -> Drawing:
    """A job without a recipe."""
    if payload.get("source_image_url"):
        raise UnservableJob(f"job {job_id} has a source image and no recipe that says what to do with it")
    steps, guidance, sampler = guess(model.name)
    knobs = payload.get("recipe_inputs")
    scheduler = knobs.get("scheduler") if isinstance(knobs, dict) else None
    return Drawing(
        prompt=_text(payload, "prompt", None),
        negative_prompt=_text(payload, "negative_prompt", ""),
        size=(_side(payload, "width", model.native_width), _side(payload, "height", model.native_height)),
        steps=_whole(payload, "steps", 1, MOST_STEPS, default=steps),
        guidance=_number(payload, "cfg_scale", 0.0, MOST_GUIDANCE, guidance) or 1.0,  # 0 is meant as "no guidance"
        sampler=canonical_sampler(_text(payload, "sampler_name", sampler)),
        scheduler=canonical_scheduler(_text({"scheduler": scheduler}, "scheduler", "normal")),
        strength=1.0,
        clip_skip=model.clip_skip,
        shift=None,
        seed=int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:4], "big"),  # nobody named one: any will do
        takes_source=False,
    )


def _source_url(job_id: str, payload: Mapping[str, Any], drawing: Drawing, *, allow_img2img: bool) -> str | None:
    url = payload.get("source_image_url")
    if url is not None and not isinstance(url, str):
        raise BadJob(f"job {job_id}: source_image_url is no address")
    if not drawing.takes_source:
        if url:
            raise UnservableJob(f"job {job_id} has a source image that its recipe has no place for")
        return None
    if not allow_img2img:
        raise UnservableJob(f"job {job_id} starts from a source image, which allow_img2img switches off")
    if not url:
        raise BadJob(f"job {job_id} starts from a source image, but says not where it is")
    return url


def _seeds(payload: Mapping[str, Any], count: int, otherwise: int) -> tuple[ImageSeed, ...]:
    given = payload.get("seeds")
    if given is not None:
        if not isinstance(given, list) or len(given) != count:
            raise BadJob(f"seeds must be a list of {count}")
        seeds = [_whole({"seeds": seed}, "seeds", 0, SEED_LIMIT - 1) for seed in given]
    else:
        first = _whole(payload, "seed", 0, SEED_LIMIT - 1, default=otherwise)
        seeds = [first, *((first + index) % NUMBERED_SEEDS for index in range(1, count))]
    return tuple(ImageSeed(value=seed) for seed in seeds)


def _slots(upload: object, count: int, image_format: ImageFormat) -> tuple[UploadSlot, ...]:
    if not isinstance(upload, list) or len(upload) != count:
        given = len(upload) if isinstance(upload, list) else "no"
        raise BadJob(f"the job has {given} upload slots for {count} image(s)")
    slots = []
    for index, slot in enumerate(upload):
        url = slot.get("put_url") if isinstance(slot, dict) else None
        if not isinstance(url, str) or not url:
            raise BadJob(f"upload slot {index} has no put_url")
        if slot.get("content_type") != image_format.content_type:
            raise BadJob(
                f"upload slot {index} is for {str(slot.get('content_type'))[:40]!r}, but the job wants "
                f"{image_format.content_type}"
            )
        slots.append(UploadSlot(url=url, content_type=image_format.content_type))
    return tuple(slots)


def _format(ext: object) -> ImageFormat:
    if ext is None:
        return ImageFormat.WEBP
    found = _FORMATS.get(ext.lower()) if isinstance(ext, str) else None
    if found is None:
        raise UnservableJob(f"ext {str(ext)[:40]!r} is not served; served are {', '.join(_FORMATS)}")
    return found


def _text(payload: Mapping[str, Any], name: str, default: str | None) -> str:
    value = payload.get(name)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise BadJob(f"{name} must be text, not {type(value).__name__}")
    return value


def _number(payload: Mapping[str, Any], name: str, least: float, most: float, default: float | None = None) -> float:
    value = payload.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadJob(f"{name} must be a number, not {type(value).__name__}")
    if (isinstance(value, float) and not math.isfinite(value)) or not least <= value <= most:
        raise BadJob(f"{name} is out of range; {least:g} to {most:g} are allowed")
    return value


def _whole(payload: Mapping[str, Any], name: str, least: int, most: int, *, default: int | None = None) -> int:
    value = _number(payload, name, least, most, default)
    if value != int(value):
        raise BadJob(f"{name} is {value}; a whole number is needed")
    return int(value)


def _side(payload: Mapping[str, Any], name: str, default: int) -> int:
    side = _whole(payload, name, SMALLEST_SIDE, LARGEST_SIDE, default=default)
    if side % 8:
        raise BadJob(f"{name} is {side}; multiples of 8 are drawn")
    return side
