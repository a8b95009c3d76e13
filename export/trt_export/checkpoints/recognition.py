"""What a checkpoint is: its architecture, and what its network predicts."""

from __future__ import annotations

from dataclasses import dataclass

from trt_engines.architectures.noise_levels import Prediction
from trt_engines.architectures.registry import architecture
from trt_export.checkpoints.checkpoint import Checkpoint
from trt_export.checkpoints.prediction import V, predicts_velocity, said
from trt_export.checkpoints.safetensors_file import UnreadableCheckpoint
from trt_export.checkpoints.signatures import detect, unsaid


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a checkpoint is, and where its noise levels are other than its architecture's."""

    architecture: str
    prediction: str  # "epsilon", "v_prediction" or "flow": the architecture's, unless the checkpoint says another
    zero_terminal_snr: bool = False  # its noise levels end in pure noise: its betas are to be rescaled
    sigma_min: float | None = None  # the lowest and the highest of EDM's noise levels; None: the architecture's
    sigma_max: float | None = None
    assumption: str | None = None  # what was taken for granted because no file says it, as a sentence for people


def recognise(checkpoint: Checkpoint, family: str | None = None) -> Recognised:
    """What a checkpoint is. Headers are read, a scheduler's configuration, and a few telling values: of Stable
    Diffusion 2 one bias, and the range of EDM's noise levels.

    Args: family: name of the architecture, where somebody said it; then only the prediction is asked for.

    Raises: UnreadableCheckpoint: it is of none that is known, or says that it is of a kind that is not served.
        UnknownArchitecture.
    """
    name = family or detect(checkpoint)
    entry = architecture(name)
    if entry.prediction is Prediction.FLOW or len(entry.denoisers) > 1:
        return Recognised(architecture=name, prediction=entry.prediction, assumption=None if family else unsaid(name))
    word = said(checkpoint)
    assumption = None
    if name == "stable_diffusion_2" and not family:
        velocity = predicts_velocity(checkpoint.of("denoiser")) if word.prediction is None else word.prediction == V
        if velocity is None:
            assumption = unsaid(name)
        elif velocity:
            name, entry = "stable_diffusion_2_v", architecture("stable_diffusion_2_v")
    if family and word.prediction not in (None, entry.prediction) and name.startswith("stable_diffusion_2"):
        raise UnreadableCheckpoint(
            f"{checkpoint.path} says that its prediction is {word.prediction}, and {name} has {entry.prediction}: name "
            "the other architecture with --architecture, or none"
        )
    return Recognised(
        architecture=name,
        prediction=word.prediction or entry.prediction,
        zero_terminal_snr=word.zero_terminal_snr,
        sigma_min=word.sigma_min,
        sigma_max=word.sigma_max,
        assumption=assumption,
    )
