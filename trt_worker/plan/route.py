"""The router: the first backend of the ladder that can run every network of a job, with the reason written down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from trt_engines.architectures.network import Role
from trt_engines.backend import EngineBackend, EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineRefused
from trt_engines.model import Model
from trt_engines.tiles import buckets_whole_or_tile
from trt_worker.job import JobSpec
from trt_worker.sampler_names import run_as


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one job will be run."""

    backend: str
    engine: str  # label of the denoiser engine, as in the store and the metrics
    bucket: Bucket
    reason: str  # one sentence; starts with "first choice" unless something stood before it
    fallback: bool  # True: a backend before this one could not do it
    sampler: str  # what is run, which is not always what the job names
    stand_in: str = ""  # why the job's sampler is not the one that is run; empty: it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A backend that is not to be asked again, and why: for one job after a fault, or for good in quarantine."""

    backend: str
    reason: str
    device: int | None = None  # where; None: on every device


def networks_of(job: JobSpec, model: Model) -> tuple[str, ...]:
    """The networks a job needs, in the order in which it meets them."""
    facts = model.facts
    encoders = [encoder.network for encoder in facts.prompting.encoders]
    source = [facts.encoder] if job.source is not None else []
    denoisers = [one.denoiser for one in facts.passes]
    return (*encoders, *source, *denoisers, facts.decoder)


def denoiser_buckets(
    model: Model, width: int, height: int, images: int, tokens: int | None = None
) -> tuple[Bucket, ...]:
    """Ways to denoise some images, the preferred one first: all at a time, then half as many, down to one.

    Args: tokens: of a row; None: the shortest length that buckets of the model are made for.
    """
    facts = model.facts
    halves = [images >> shift for shift in range(images.bit_length())]
    return tuple(
        Bucket(width=width, height=height, rows=facts.rows * count, tokens=tokens or facts.tokens[0])
        for count in halves
    )


def route(
    job: JobSpec,
    model: Model,
    ladder: Sequence[EngineBackend],
    *,
    max_rows: int,
    excluded: Collection[Exclusion] = (),
) -> Plan:
    """Decide which backend runs a job.

    Args:
        ladder: backends, best first.
        max_rows: images that share a step.
        excluded: backends that already failed this job, or are quarantined.
    Raises: EngineRefused: no backend is left; the message gives every backend's reason.
    """
    buckets = denoiser_buckets(model, job.width, job.height, max_rows)
    networks = networks_of(job, model)
    sampler, stand_in = run_as(job.sampler)
    reasons: list[str] = []
    barred = {exclusion.backend: exclusion.reason for exclusion in excluded}
    for backend in ladder:
        refusal = barred.get(backend.name) or _refusal(backend, model, buckets, networks)
        if refusal is not None:
            reasons.append(f"{backend.name}: {refusal}")
            continue
        spec = EngineSpec(model=model, network=model.facts.passes[0].denoiser, bucket=buckets[0])
        return Plan(
            backend=backend.name,
            engine=spec.label,
            bucket=buckets[0],
            reason="; ".join(reasons) if reasons else "first choice",
            fallback=bool(reasons),
            sampler=sampler,
            stand_in=stand_in,
        )
    raise EngineRefused(f"no backend can run {model.name} at {job.width}x{job.height}: {'; '.join(reasons)}")


def _refusal(backend: EngineBackend, model: Model, buckets: Sequence[Bucket], networks: Sequence[str]) -> str | None:
    """Why a backend cannot run a job, not even one image at a time and in tiles; what is no denoiser is called with one
    row."""
    whole, facts = replace(buckets[0], rows=1), model.facts
    for network in networks:
        role = facts.network(network).role
        match role:
            case Role.DENOISER:
                shapes = tuple(buckets)
            case Role.AUTOENCODER:
                shapes = buckets_whole_or_tile(whole.width, whole.height, facts.size_step)
            case Role.TEXT_ENCODER:
                shapes = (whole,)
        refusals = [backend.refuses(EngineSpec(model=model, network=network, bucket=bucket)) for bucket in shapes]
        if all(refusals):
            return refusals[-1] if role is Role.DENOISER else refusals[0]
    return None
