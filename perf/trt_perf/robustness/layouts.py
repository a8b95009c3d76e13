"""Published layouts of checkpoints: how many are bound that should be, and refused with the right words otherwise."""

from __future__ import annotations

import tempfile
from pathlib import Path

from trt_export.building.holdings import stored_weights
from trt_export.building.located import Located
from trt_export.building.source import open_located
from trt_export.checkpoints.binding import WeightsMissing
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.measuring.measure import meta_module
from trt_perf.robustness.checkpoint_cases import CASES, Case


def measure() -> dict[str, float]:
    """The figures; what differs from what is right is told in their stead by the tests."""
    bound = [wrong(case) is None for case in CASES if not case.words]
    refused = [wrong(case) is None for case in CASES if case.words]
    return {
        "layouts": len(bound),
        "layouts_bound": sum(bound),
        "layouts_bound_missing": len(bound) - sum(bound),
        "layouts_to_refuse": len(refused),
        "layouts_refused_rightly": sum(refused),
        "layouts_refused_rightly_missing": len(refused) - sum(refused),
    }


def wrong(case: Case) -> str | None:
    """What differs from what is right for a layout; None: nothing."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = _bound(case, Path(folder))
        except (UnreadableCheckpoint, WeightsMissing) as exc:
            missing = [word for word in case.words if word not in str(exc)]
            return None if case.words and not missing else f"{case.name} is refused without {missing}: {exc}"
    return f"{case.name} is bound, and should be refused" if case.words else found


def _bound(case: Case, folder: Path) -> str | None:
    """Open, recognise and bind as a build does before it exports; what is not as it should be.

    Raises: UnreadableCheckpoint, WeightsMissing.
    """
    place = case.write(folder)
    source = open_located(Located(name="model", path=place.path, networks=tuple(place.networks.items())))
    entry = source.architecture
    for name, module in source.modules.items():
        stored = stored_weights(entry.name, name, meta_module(module), source.checkpoint)
        most = case.stored_bytes_per_weight
        if name == "denoiser" and most and stored.size > most * module.network.parameters:
            return f"{case.name}: its denoiser has {stored.size} bytes for {module.network.parameters} weights"
    found = (entry.name, source.zero_terminal_snr)
    if (
        found != (case.architecture, case.zero_terminal_snr)
        or (case.prediction or entry.prediction) != entry.prediction
    ):
        return f"{case.name} is recognised as {found}, {entry.prediction}"
    if case.mentions not in (source.assumption or ""):
        return f"{case.name}: {source.assumption!r} does not name {case.mentions}"
    return None
