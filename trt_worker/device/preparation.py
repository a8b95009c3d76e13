"""From a job to its rows: prompts and source image are encoded while other jobs are stepped."""

from __future__ import annotations

from dataclasses import dataclass

from loguru import logger

from trt_engines.model import Model
from trt_worker import frames
from trt_worker.batch.admission import BatchKey
from trt_worker.condition.encode import Encoding
from trt_worker.condition.source import SourceEncoding
from trt_worker.denoise.levels import levels_of, parameterisation_of
from trt_worker.denoise.schedules import whole
from trt_worker.denoise.start import Sampling, start
from trt_worker.device.row import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One job whose inputs are being encoded."""

    run: frames.Run
    model: Model
    positive: Encoding
    negative: Encoding | None  # None: guidance 1
    source: SourceEncoding | None

    @property
    def done(self) -> bool:
        """Whether `rows` need not wait."""
        return all(one.done for one in (self.positive, self.negative, self.source) if one is not None)

    def rows(self) -> dict[int, Row]:
        """One row per image, by its number in the job; waits for the encodings.

        Raises: UnservableJob, EngineFault.
        """
        job = self.run.job
        positive = self.positive.result()
        negative = self.negative.result() if self.negative is not None else None
        for note in (*positive.notes, *(negative.notes if negative else ())):
            logger.info("Job {}: {}", job.id, note)
        encoded = self.source.result() if self.source is not None else None
        sampling = Sampling(
            sampler=job.sampler,
            scheduler=job.scheduler,
            steps=job.steps,
            guidance=job.guidance,
            strength=job.strength,
            node=job.sampler_node,
            end=job.end_step,
        )
        levels = parameterisation_of(
            levels_of(self.model),
            shift=job.shift,
            width=job.width,
            height=job.height,
            steps=whole(job.steps, job.strength),
        )
        shape = latent_shape(self.model, job.width, job.height)
        rows = {}
        for index, seed in enumerate(job.seeds):
            begun = start(sampling, levels, shape, seed=seed.value, draw=seed.draw, latent=encoded)
            rows[index] = Row(
                job=job.id,
                index=index,
                program=begun.program,
                start=begun.sample,
                noise=begun.noise,
                positive=positive.context,
                negative=negative.context if negative else None,
            )
        return rows


def batch_key(run: frames.Run) -> BatchKey:
    """The batch that a job's images belong to."""
    return BatchKey(model=run.job.model, backend=run.backend, width=run.job.width, height=run.job.height)


def latent_shape(model: Model, width: int, height: int) -> tuple[int, int, int]:
    """Channels, height and width of a picture's latent. Args: width, height: pixels."""
    return model.latent_channels, height // model.latent_scale, width // model.latent_scale
