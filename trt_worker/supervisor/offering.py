"""The one list of models: found on disk by the supervisor, checked, handed to the devices, and offered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loguru import logger

from trt_engines.architectures.served import why_unserved
from trt_engines.description import FILE
from trt_engines.errors import ModelUnusable
from trt_engines.model import Model, find_models
from trt_engines.weights import DigestNotes, damage
from trt_worker.config.models import resolve_models
from trt_worker.config.schema import Config

DIGESTS = "digests.json"
"""Name of the file, beside the logs, in which digests of weights are noted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Models that a configuration offers."""

    models: Mapping[str, Model]  # by name
    damaged: Mapping[str, str]  # of these, what is wrong with their files: not to be offered until that is mended


@dataclass(slots=True, kw_only=True)
class _Known:
    """A model that was offered before."""

    model: Model
    told: bool = False  # that its folder says something else by now


@dataclass(slots=True)
class Offering:
    """What a configuration offers of the models on disk.

    A model stays what it was when it was first offered, because devices hold its engines.

    Args: notes: what its weights were when they were last read.
    """

    notes: DigestNotes
    _known: dict[str, _Known] = field(default_factory=dict)

    def find(self, config: Config) -> Found:
        """The models that a configuration offers and this rig has. Reads files, which may take long.

        What has no description that can be used is passed over, and the operator is told of it.
        """
        available = find_models((config.cache_home,), unusable=_passed_over)
        names, notes = resolve_models(config.models_to_load, config.models_to_skip, available)
        for note in notes:
            logger.warning("{}", note)
        models: dict[str, Model] = {}
        damaged: dict[str, str] = {}
        for name in names:
            model = self._first(available[name])
            if problem := _unknown(model):
                logger.error("A model is passed over: {}", problem)
                continue
            models[name] = model
            if problem := self.damage(model):
                damaged[name] = problem
        return Found(models=models, damaged=damaged)

    def damage(self, model: Model) -> str:
        """What can be seen to be wrong with a model's files; empty: nothing. Reads those that have changed."""
        problem = damage(model, self.notes)
        try:
            self.notes.keep()
        except OSError as error:
            logger.warning("The digests of weights cannot be noted ({}); they are read again next time.", error)
        return problem

    def _first(self, model: Model) -> Model:
        """A model as it was first offered."""
        known = self._known.setdefault(model.name, _Known(model=model))
        if not known.told and not known.model.same_as(model):
            known.told = True
            logger.warning(
                "The folder of {} says something else than when it was first offered ({}); that takes effect at the "
                "next start.",
                model.name,
                model.folder,
            )
        return known.model


def _unknown(model: Model) -> str:
    """What a model asks for that nothing here computes; empty: nothing."""
    reason = why_unserved(model.facts)
    return f"{model.folder / FILE}: {reason}" if reason else ""


def _passed_over(error: ModelUnusable) -> None:
    logger.error("A model is passed over: {}", error)
