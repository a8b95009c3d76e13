"""What a network's output means: noise levels, time steps, and the denoised estimate as a linear form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


class Prediction(StrEnum):
    """What the network predicts."""

    EPSILON = "epsilon"
    V = "v_prediction"
    FLOW = "flow"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameterisation:
    """Noise levels of one kind of model and the maps between them and the network's time steps.

    `table` holds the rising noise levels the model was trained on. Conventions are ComfyUI's, which the network's
    workers share, down to its float32 arithmetic: the noise of SDE samplers changes with a level's last bit.
    """

    prediction: Prediction
    table: Float64  # [levels], rising; every level a float32
    log_table: NDArray[np.float32]  # [levels]; of the levels before they became float32
    kind: str  # "discrete", "flow", "flux" or "cascade": how time maps to noise
    shift: float = 1.0  # time shift of flow models; mu of flux
    multiplier: float = 1.0  # time steps per unit of time, flow models

    @property
    def sigma_min(self) -> float:
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        return float(self.table[-1])

    @property
    def is_flow(self) -> bool:
        return self.prediction is Prediction.FLOW

    def timestep(self, sigma: float) -> float:
        """The time step the network is told for a noise level."""
        match self.kind:
            case "discrete":
                return float(np.abs(np.log(max(sigma, 1e-10)) - self.log_table).argmin())
            case "cascade":
                return _cascade_time(sigma)
            case _:
                return sigma * self.multiplier

    def sigma(self, timestep: float) -> float:
        """The noise level of a time step, between two trained ones interpolated in the logarithm."""
        match self.kind:
            case "discrete":
                last = len(self.table) - 1
                position = np.float32(min(max(timestep, 0.0), float(last)))
                low, high = math.floor(position), math.ceil(position)
                share, logs = position - np.floor(position), self.log_table
                return single(math.exp((np.float32(1) - share) * logs[low] + share * logs[high]))
            case "cascade":
                return _cascade_sigma(timestep, self.shift)
            case "flux":
                return _flux_sigma(timestep / self.multiplier, self.shift)
            case _:
                return _flow_sigma(timestep / self.multiplier, self.shift)

    def input_scale(self, sigma: float) -> float:
        """Factor on the sample before the network sees it."""
        return 1.0 if self.is_flow else 1 / math.sqrt(sigma * sigma + 1)

    def denoised_form(self, sigma: float) -> tuple[float, float]:
        """(a, b) of the denoised estimate D = a * sample + b * output."""
        if self.prediction is Prediction.V:
            return 1 / (sigma * sigma + 1), -sigma / math.sqrt(sigma * sigma + 1)
        return 1.0, -sigma

    def alpha(self, sigma: float) -> float:
        """Factor of the clean image in a sample of this noise level."""
        return 1 - sigma if self.is_flow else 1.0

    def half_log_snr(self, sigma: float) -> float:
        """Natural logarithm of alpha / sigma."""
        return math.log((1 - sigma) / sigma) if self.is_flow else -math.log(sigma)

    def sigma_of_half_log_snr(self, value: float) -> float:
        """Inverse of `half_log_snr`."""
        return 1 / (1 + math.exp(value)) if self.is_flow else math.exp(-value)

    def halfway(self, start: float, end: float) -> float:
        """The level in the middle of two by `half_log_snr`, in float32 from end to end."""
        one, half = np.float32(1), np.float32(0.5)
        ratios = [np.float32(sigma) / (one - np.float32(sigma)) if self.is_flow else sigma for sigma in (start, end)]
        first, last = (np.float32(-math.log(ratio)) for ratio in ratios)
        middle = last - (last - first) * half
        return float(one / (one + np.float32(math.exp(middle)))) if self.is_flow else single(math.exp(-middle))

    def start_scales(self, sigma: float) -> tuple[float, float]:
        """(noise, latent) factors of the first sample; at full noise an eps or v model starts at unit variance more."""
        if self.is_flow:
            return sigma, 1 - sigma
        if math.isclose(sigma, self.sigma_max, rel_tol=1e-5) or sigma > self.sigma_max:
            return math.sqrt(1 + sigma * sigma), 1.0
        return sigma, 1.0


def stable_diffusion(
    prediction: Prediction = Prediction.EPSILON, *, steps: int = 1000, first: float = 0.00085, last: float = 0.012
) -> Parameterisation:
    """Stable Diffusion 1, 2 and XL: scaled-linear betas."""
    betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
    kept = np.cumprod(1 - betas)
    return _parameterisation(np.sqrt((1 - kept) / kept), prediction=prediction, kind="discrete")


def flow(shift: float, multiplier: float = 1000.0) -> Parameterisation:
    """Rectified flow with a constant time shift (SD3, AuraFlow, Z-Image)."""
    times = np.arange(1, 1001) / 1000
    table = np.array([_flow_sigma(time, shift) for time in times])
    return _parameterisation(table, prediction=Prediction.FLOW, kind="flow", shift=shift, multiplier=multiplier)


def flux(mu: float = 1.15) -> Parameterisation:
    """Flux: rectified flow with an exponential time shift."""
    table = np.array([_flux_sigma(time / 10_000, mu) for time in range(1, 10_001)])
    return _parameterisation(table, prediction=Prediction.FLOW, kind="flux", shift=mu)


def cascade(shift: float = 1.0) -> Parameterisation:
    """Stable Cascade: cosine schedule with a shifted signal-to-noise ratio; time runs over 0..1."""
    table = np.array([_cascade_sigma(time / 10_000, shift) for time in range(1, 10_001)])
    return _parameterisation(table, prediction=Prediction.EPSILON, kind="cascade", shift=shift)


def single(value: float) -> float:
    """A number as float32 keeps it."""
    return float(np.float32(value))


def _parameterisation(
    table: Float64, *, prediction: Prediction, kind: str, shift: float = 1.0, multiplier: float = 1.0
) -> Parameterisation:
    return Parameterisation(
        prediction=prediction,
        table=table.astype(np.float32).astype(np.float64),
        log_table=np.log(table).astype(np.float32),
        kind=kind,
        shift=shift,
        multiplier=multiplier,
    )


_ONE, _TWO, _HALF, _PI = (np.float32(number) for number in (1, 2, 0.5, math.pi))
_COSINE_OFFSET = np.float32(8e-3)


def _flow_sigma(time: float, shift: float) -> float:
    exact = np.float32(time)
    return float(np.float32(shift) * exact / (np.float32(1) + np.float32(shift - 1) * exact))


def _flux_sigma(time: float, mu: float) -> float:
    if time <= 0:
        return 0.0
    one, scale = np.float32(1), np.float32(math.exp(mu))
    return float(scale * (one / (scale + (one / np.float32(time) - one))))


def _cascade_kept(time: np.float32) -> np.float32:
    """Share of the clean image in the variance at a time, not yet divided by that at time 0.

    Every operation is rounded to float32, as in the implementation that the network's workers share. Near time 0 the
    last bit of a cosine, and of its inverse, is visible in the noise level and in the time that the network is told.
    """
    cosine = np.float32(math.cos((time + _COSINE_OFFSET) / (_ONE + _COSINE_OFFSET) * _PI * _HALF))
    return cosine * cosine


_COSINE_START = _cascade_kept(np.float32(0))


def _cascade_sigma(time: float, shift: float) -> float:
    kept = _cascade_kept(np.float32(time)) / _COSINE_START
    if shift != 1.0 and kept < 1:
        log_snr = np.float32(math.log(kept / (_ONE - kept))) + _TWO * np.float32(math.log(_ONE / np.float32(shift)))
        kept = _ONE / (_ONE + np.float32(math.exp(-log_snr)))
    kept = min(max(kept, np.float32(0.0001)), np.float32(0.9999))
    return float(np.sqrt((_ONE - kept) / kept))


def _cascade_time(sigma: float) -> float:
    level = np.float32(sigma)
    kept = _ONE / (level * level + _ONE)
    angle = np.float32(math.acos(np.sqrt(kept * _COSINE_START)))
    return float(angle / (_PI * _HALF) * (_ONE + _COSINE_OFFSET) - _COSINE_OFFSET)
