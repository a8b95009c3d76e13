"""The architectures that operators mean: a network's word may stand for several, of which the files tell the one."""

from __future__ import annotations

from trt_engines.architectures.registry import architecture, known_as
from trt_export.building.located import Located
from trt_export.checkpoints.checkpoint import open_checkpoint
from trt_export.checkpoints.recognition import recognise
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import TWINS


def family_of(located: Located, baseline: str) -> str | None:
    """The architecture that has to be named when a checkpoint is opened; None: its files say it.

    Args: baseline: an architecture, or what a network calls one or several.

    Raises: UnreadableCheckpoint: the files are of another architecture.
    """
    meant = [one.name for one in known_as(baseline)]
    if not meant:
        raise UnreadableCheckpoint(f"{located.path} is to be {baseline!r}, which no architecture is called")
    try:
        found = recognise(open_checkpoint(located.path, dict(located.networks))).architecture
    except UnreadableCheckpoint:
        if len(meant) == 1:
            return meant[0]  # its files say nothing, or lack what says it
        raise
    if found in meant:
        return None
    if twins := [name for name in meant if name in TWINS.get(found, ())]:
        return twins[0]
    raise UnreadableCheckpoint(
        f"{located.path} is {architecture(found).title}, and not {baseline} as the configuration says"
    )
