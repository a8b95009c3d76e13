"""From a job to its rows: prompts and source image are encoded while other jobs are stepped."""

from __future__ import annotations

from dataclasses import dataclass

from loguru import logger

from trt_engines.model import Model
from trt_worker import frames
from trt_worker.batch.admission import BatchKey
from trt_worker.condition.prompt import PromptEncoding
from trt_worker.condition.source import SourceEncoding
from trt_worker.denoise.levels import parameterisation_of
from trt_worker.denoise.schedules import whole
from trt_worker.denoise.start import Sampling, start
from trt_worker.device.feeds import feeds_of
from trt_worker.device.row import Row, halves


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One job whose inputs are being encoded."""

    run: frames.Run
    model: Model
    positive: PromptEncoding
    negative: PromptEncoding | None  # None: no guidance by a second evaluation
    source: SourceEncoding | None

    @property
    def done(self) -> bool:
        """Whether `rows` need not wait."""
        return all(one.done for one in (self.positive, self.negative, self.source) if one is not None)

    def rows(self) -> dict[int, Row]:
        """One row per image, by its number in the job; waits for the encodings.

        Raises: UnservableJob, BadJob, EngineFault.
        """
        job, facts = self.run.job, self.model.facts
        denoising = facts.passes[0]
        ports = facts.network(denoising.denoiser).ports
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
            denoising.levels,
            shift=job.shift,
            width=job.width,
            height=job.height,
            steps=whole(job.steps, job.strength),
        )
        shape = denoising.latent.shape(job.width, job.height)
        first, second = halves(
            feeds_of(job, ports, denoising, positive.text),
            feeds_of(job, ports, denoising, negative.text) if negative is not None else None,
            along=ports.along_tokens,
            lengths=facts.prompting.lengths,
            least=facts.tokens[0],
        )
        rows = {}
        for index, seed in enumerate(job.seeds):
            begun = start(sampling, levels, shape, seed=seed.value, draw=seed.draw, latent=encoded)
            rows[index] = Row(
                job=job.id,
                index=index,
                program=begun.program,
                start=begun.sample,
                noise=begun.noise,
                positive=first,
                negative=second,
            )
        return rows


def batch_key(run: frames.Run) -> BatchKey:
    """The batch that a job's images belong to."""
    return BatchKey(model=run.job.model, backend=run.backend, width=run.job.width, height=run.job.height)
