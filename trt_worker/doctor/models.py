"""Model folders: what cannot be used of them, and whether weights are what they should be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from trt_engines.errors import ModelUnusable
from trt_engines.model import Model, find_models
from trt_engines.weights import DigestNotes, damage
from trt_worker.config.schema import Config
from trt_worker.doctor.finding import Finding
from trt_worker.supervisor.offering import DIGESTS


def examine_models(config: Config, *, read_weights: bool = False) -> Iterator[Finding]:
    """Look at every model that ships or lies under `cache_home`.

    Args:
        read_weights: compare every byte of weights that have a digest; otherwise only of files that have changed since
            they were last compared.
    """
    unusable: list[ModelUnusable] = []
    models = find_models((config.cache_home,), unusable=unusable.append)
    for error in unusable:
        mend = f"ls -lR {shlex.quote(str(config.cache_home))}"
        yield Finding(mark="fault", what="models", text=f"passed over: {error}", mend=mend)
    notes = DigestNotes(config.log_dir / DIGESTS)
    for model in models.values():
        yield _weights(model, notes, read_weights)
    if read_weights:
        try:
            notes.keep()
        except OSError as error:
            text = f"the digests cannot be noted in {config.log_dir} ({error.strerror}): weights are read at each start"
            yield Finding(mark="note", what="weights", text=text, mend=f"ls -ld {shlex.quote(str(config.log_dir))}")


def _weights(model: Model, notes: DigestNotes, read: bool) -> Finding:
    if problem := damage(model, notes, anew=read):
        mend = f"ls -lR {shlex.quote(str(model.folder))}"
        return Finding(mark="fault", what="weights", text=f"{model.name} is not offered: {problem}", mend=mend)
    if not model.digests:
        text = f"{model.name} has no digests: its files are whole, but flipped bytes would not be noticed"
        return Finding(mark="ok", what="weights", text=text)
    how = "read and" if read else "look as when they were last read, and"
    text = f"{model.name}: {len(model.digests)} file(s) {how} agree with their digests"
    return Finding(mark="ok", what="weights", text=text)
