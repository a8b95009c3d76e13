"""A popped job in the worker's own terms."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from trt_engines.model import Model
from trt_worker.errors import BadJob, UnservableJob
from trt_worker.intake.horde.messages import Payload, PoppedJob
from trt_worker.job import MAX_PROMPT_CHARACTERS, ImageFormat, ImageSeed, JobSpec
from trt_worker.sampler_names import canonical_sampler

NEGATIVE_MARK = "###"
"""What stands between prompt and negative prompt."""

DEFAULT_TTL = 150.0
"""Seconds a job lives when the server does not say: its minimum for pictures."""

SIZE_STEP = 64  # pixels
LARGEST_SIDE = 3072  # pixels
MOST_STEPS = 500
MOST_GUIDANCE = 100.0
MOST_CLIP_SKIP = 12

SEED_LIMIT = 2**63
"""Seeds are reported back, and the server fails on larger ones."""

_MASKED = frozenset({"inpainting", "outpainting", "remix"})
_VIDEO = frozenset({"txt2video", "img2video"})


def to_job(
    popped: PoppedJob,
    ids: Sequence[str],
    models: Mapping[str, Model],
    *,
    received: float,
    asked: float,
    due_margin: float,
) -> JobSpec:
    """The job without its source image; see `with_source`.

    Args:
        ids: one per image.
        models: what can be served now, by our spelling.
        received, asked: time.monotonic() seconds when the answer came, and when the pop was sent: the server counts
            the job's time from a moment in between.
        due_margin: seconds to keep back; at most half of the job's time is.
    Raises: UnservableJob: it asks for a model, sampler or feature that is not served.
        BadJob: a value is out of the protocol's range.
    """
    payload = popped.payload
    model = _model(popped.model, models)
    width, height = _side("width", payload.width), _side("height", payload.height)
    feature = _unserved_feature(popped, model, width, height)
    if feature is not None:
        raise UnservableJob(f"job {ids[0]} asks for {feature}, which this worker does not serve")
    prompt, _, negative = (payload.prompt or "").partition(NEGATIVE_MARK)
    guidance = 7.5 if payload.cfg_scale is None else _within("cfg_scale", payload.cfg_scale, 0.0, MOST_GUIDANCE)
    return JobSpec(
        id=ids[0],
        model=model.name,
        prompt=prompt.strip()[:MAX_PROMPT_CHARACTERS],
        negative_prompt=negative.strip()[:MAX_PROMPT_CHARACTERS],
        width=width,
        height=height,
        steps=int(_within("ddim_steps", 30 if payload.ddim_steps is None else payload.ddim_steps, 1, MOST_STEPS)),
        guidance=guidance or 1.0,  # 0 is how requesters write "no guidance"
        sampler=canonical_sampler(payload.sampler_name or "k_euler_a"),
        scheduler="karras" if payload.karras else "normal",
        clip_skip=int(_within("clip_skip", payload.clip_skip or 1, 1, MOST_CLIP_SKIP)),
        seeds=_seeds(payload, ids),
        format=ImageFormat.WEBP,
        received=received,
        due=asked + _time_to_work(popped, due_margin),
    )


def with_source(job: JobSpec, popped: PoppedJob, source: bytes) -> JobSpec:
    """The job as a variation of `source`, which was fetched and checked.

    Raises: BadJob: denoising_strength is out of range.
    """
    strength = popped.payload.denoising_strength
    strength = 1.0 if strength is None else _within("denoising_strength", strength, 0.0, 1.0)
    return dataclasses.replace(job, source=source, strength=max(strength, 0.01))


def expires(popped: PoppedJob | None, asked: float) -> float:
    """When the server gives the job up, time.monotonic() seconds."""
    ttl = popped.ttl if popped is not None else None
    return asked + (DEFAULT_TTL if ttl is None or ttl <= 0 else ttl)


def _time_to_work(popped: PoppedJob, due_margin: float) -> float:
    lives = expires(popped, 0.0)
    return lives - min(due_margin, lives / 2)


def _unserved_feature(popped: PoppedJob, model: Model, width: int, height: int) -> str | None:
    """The first feature of the job that is not served, in words, or None.

    `source_processing` counts only when there is a source image: it says img2img on jobs without one.
    """
    payload = popped.payload
    kind = popped.source_processing or ""
    # The network's workers drop the second pass of pictures that are not larger than the model's own size.
    second_pass = payload.hires_fix and (width > model.native_width or height > model.native_height)
    asked = (
        (popped.media_type == "video" or kind in _VIDEO, "a video"),
        (popped.source_image is not None and kind in _MASKED, kind),
        (popped.source_mask is not None, "a source mask"),
        (popped.extra_source_images, "extra source images"),
        (payload.control_type, f"control_type {payload.control_type!r}"),
        (payload.workflow, f"workflow {payload.workflow!r}"),
        (payload.loras, "loras"),
        (payload.tis, "textual inversions"),
        (payload.post_processing, "post_processing"),
        (payload.transparent, "transparent pictures"),
        (payload.tiling, "tiling"),
        (second_pass, "hires_fix"),
        (payload.use_nsfw_censor, "censoring of not-safe-for-work pictures"),
    )
    return next((name for wanted, name in asked if wanted), None)


def _model(name: str | None, models: Mapping[str, Model]) -> Model:
    """The model by its name in any case: AIPG's server writes all of them in lower case."""
    wanted = (name or "").casefold()
    for ours, model in models.items():
        if ours.casefold() == wanted:
            return model
    raise UnservableJob(f"model {name!r} is not served now; served are {', '.join(models) or 'none'}")


def _seeds(payload: Payload, ids: Sequence[str]) -> tuple[ImageSeed, ...]:
    """One per image. Images that were given the same seed are consecutive draws of it, so that they differ."""
    given = payload.seeds or []
    if len(given) != len(ids):
        given = [_seed_number(payload.seed, ids[0])] * len(ids)
    drawn: Counter[int] = Counter()
    seeds = []
    for value in given:
        value %= SEED_LIMIT
        seeds.append(ImageSeed(value=value, draw=drawn[value]))
        drawn[value] += 1
    return tuple(seeds)


def _seed_number(seed: str | int | None, job_id: str) -> int:
    """The seed as a number; text, which the server hashes before it gets here, is hashed."""
    try:
        return int(job_id if seed is None else seed)
    except ValueError:
        text = job_id if seed is None else str(seed)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _side(name: str, pixels: int | None) -> int:
    asked = _within(name, 512 if pixels is None else pixels, 1, LARGEST_SIDE)
    return -(-int(asked) // SIZE_STEP) * SIZE_STEP


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise BadJob(f"{name} is {value}; the protocol allows {least:g} to {most:g}")
    return value
