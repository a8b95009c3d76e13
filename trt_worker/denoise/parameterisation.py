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
    workers share.
    """

    prediction: Prediction
    table: Float64  # [levels], rising
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
                return float(np.abs(np.log(max(sigma, 1e-10)) - np.log(self.table)).argmin())
            case "cascade":
                least = _COSINE_START**2
                variance = 1 / (sigma * sigma + 1)
                angle = math.acos(min(1.0, math.sqrt(variance * least)))
                return angle / (math.pi / 2) * (1 + _COSINE_OFFSET) - _COSINE_OFFSET
            case _:
                return sigma * self.multiplier

    def sigma(self, timestep: float) -> float:
        """The noise level of a time step, between two trained ones interpolated in the logarithm."""
        match self.kind:
            case "discrete":
                last = len(self.table) - 1
                position = min(max(timestep, 0.0), float(last))
                low, high = math.floor(position), math.ceil(position)
                share = position - low
                return float(np.exp((1 - share) * np.log(self.table[low]) + share * np.log(self.table[high])))
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
    return Parameterisation(prediction=prediction, table=np.sqrt((1 - kept) / kept), kind="discrete")


def flow(shift: float, multiplier: float = 1000.0) -> Parameterisation:
    """Rectified flow with a constant time shift (SD3, AuraFlow, Z-Image)."""
    times = np.arange(1, 1001) / 1000
    table = np.array([_flow_sigma(time, shift) for time in times])
    return Parameterisation(prediction=Prediction.FLOW, table=table, kind="flow", shift=shift, multiplier=multiplier)


def flux(mu: float = 1.15) -> Parameterisation:
    """Flux: rectified flow with an exponential time shift."""
    table = np.array([_flux_sigma(time / 10_000, mu) for time in range(1, 10_001)])
    return Parameterisation(prediction=Prediction.FLOW, table=table, kind="flux", shift=mu)


def cascade(shift: float = 1.0) -> Parameterisation:
    """Stable Cascade: cosine schedule with a shifted signal-to-noise ratio; time runs over 0..1."""
    table = np.array([_cascade_sigma(time / 10_000, shift) for time in range(1, 10_001)])
    return Parameterisation(prediction=Prediction.EPSILON, table=table, kind="cascade", shift=shift)


_COSINE_OFFSET = 8e-3
_COSINE_START = math.cos(_COSINE_OFFSET / (1 + _COSINE_OFFSET) * math.pi / 2)


def _flow_sigma(time: float, shift: float) -> float:
    return shift * time / (1 + (shift - 1) * time)


def _flux_sigma(time: float, mu: float) -> float:
    return 0.0 if time <= 0 else math.exp(mu) / (math.exp(mu) + (1 / time - 1))


def _cascade_sigma(time: float, shift: float) -> float:
    kept = math.cos((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2 / _COSINE_START**2
    if shift != 1.0:
        kept = min(max(kept, 1e-12), 1 - 1e-12)
        kept = 1 / (1 + math.exp(-(math.log(kept / (1 - kept)) - 2 * math.log(shift))))
    kept = min(max(kept, 0.0001), 0.9999)
    return math.sqrt((1 - kept) / kept)
