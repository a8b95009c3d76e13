"""What a network's output means: noise levels, time steps, and the denoised estimate as a linear form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_engines.architectures.noise_levels import Prediction, Time

Float64 = NDArray[np.float64]

PURE_NOISE = 4.8973451890853435e-08
"""Share of the image in the variance of the last level of a schedule that ends without a signal. At none at all the
level would be infinite; this is the number that ComfyUI (comfy/model_sampling.py) sets, whose level is 4518.7."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameterisation:
    """Noise levels of one kind of model and the maps between them and the network's time steps.

    `table` holds the rising noise levels the model was trained on. Conventions are ComfyUI's, which the network's
    workers share, down to its float32 arithmetic: the noise of SDE samplers changes with a level's last bit.
    """

    prediction: Prediction
    time: Time  # how the network's time maps to noise
    table: Float64  # [levels], rising; every level a float32
    log_table: NDArray[np.float32]  # [levels]; of the levels before they became float32
    shift: float = 1.0  # time shift, as `Time` has it
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
        match self.time:
            case Time.DISCRETE:
                return float(np.abs(np.log(max(sigma, 1e-10)) - self.log_table).argmin())
            case Time.COSINE:
                return _cascade_time(sigma)
            case Time.EDM:
                return float(np.float32(0.25) * np.float32(math.log(max(sigma, 1e-10))))
            case Time.FLOW | Time.FLUX:
                return sigma * self.multiplier

    def sigma(self, timestep: float) -> float:
        """The noise level of a time step, between two trained ones interpolated in the logarithm."""
        match self.time:
            case Time.DISCRETE:
                last = len(self.table) - 1
                position = np.float32(min(max(timestep, 0.0), float(last)))
                low, high = math.floor(position), math.ceil(position)
                share, logs = position - np.floor(position), self.log_table
                return single(math.exp((np.float32(1) - share) * logs[low] + share * logs[high]))
            case Time.COSINE:
                return _cascade_sigma(timestep, self.shift)
            case Time.EDM:
                return single(math.exp(np.float32(timestep) / np.float32(0.25)))
            case Time.FLUX:
                return _flux_sigma(timestep / self.multiplier, self.shift)
            case Time.FLOW:
                return _flow_sigma(timestep / self.multiplier, self.shift)

    def sigma_after(self, share: float) -> float:
        """The noise level after a share of the whole way through the model's time, from 0 (noise) to 1 (image).

        The beginning is above every level of a model whose noise has no bound. Source: ComfyUI's `percent_to_sigma`.
        """
        if share <= 0:
            return 1.0 if self.is_flow else math.inf
        if share >= 1:
            return 0.0
        match self.time:
            case Time.DISCRETE:
                return self.sigma((1 - share) * (len(self.table) - 1))
            case Time.EDM:
                low, high = math.log(self.sigma_min), math.log(self.sigma_max)
                return single(math.exp(low + (high - low) * (1 - share)))
            case Time.COSINE | Time.FLOW | Time.FLUX:
                return self.sigma((1 - share) * self.multiplier)

    def input_scale(self, sigma: float) -> float:
        """Factor on the sample before the network sees it."""
        return 1.0 if self.is_flow else 1 / math.sqrt(sigma * sigma + 1)

    def denoised_form(self, sigma: float) -> tuple[float, float]:
        """(a, b) of the denoised estimate D = a * sample + b * output.

        Sources: of epsilon, Ho et al. 2020 (arXiv:2006.11239, eq. 15); of the velocity, Salimans & Ho 2022
        (arXiv:2202.00512, section 4); both here with sample = image + sigma * noise. With a velocity it is EDM's c_skip
        and -c_out for data of unit variance (Karras et al. 2022, arXiv:2206.00364, table 1).
        """
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
        """Factors of noise and latent in the first sample.

        At the highest level, models of epsilon and velocity scale noise by sqrt(1 + sigma^2), the deviation of a noised
        image of unit variance.
        """
        if self.is_flow:
            return sigma, 1 - sigma
        if math.isclose(sigma, self.sigma_max, rel_tol=1e-5) or sigma > self.sigma_max:
            return math.sqrt(1 + sigma * sigma), 1.0
        return sigma, 1.0


def stable_diffusion(
    prediction: Prediction = Prediction.EPSILON,
    *,
    steps: int = 1000,
    first: float = 0.00085,
    last: float = 0.012,
    zero_terminal_snr: bool = False,
) -> Parameterisation:
    """Stable Diffusion 1, 2 and XL: scaled-linear betas.

    Args:
        steps: of training.
        first, last: betas.
        zero_terminal_snr: rescale them so that the last level is nothing but noise, see `_without_signal`.
    """
    betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
    kept: Float64 = np.cumprod(1 - betas, dtype=np.float64)
    if zero_terminal_snr:
        kept = _without_signal(kept)
    return _parameterisation(np.sqrt((1 - kept) / kept), prediction=prediction, time=Time.DISCRETE)


def flow(shift: float, multiplier: float = 1000.0) -> Parameterisation:
    """Rectified flow with a constant time shift (SD3, AuraFlow, Z-Image).

    Args: multiplier: time steps per unit of time, in which the network is told it.
    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23.
    """
    times = np.arange(1, 1001) / 1000
    table = np.array([_flow_sigma(time, shift) for time in times])
    return _parameterisation(table, prediction=Prediction.FLOW, time=Time.FLOW, shift=shift, multiplier=multiplier)


def flux(mu: float = 1.15) -> Parameterisation:
    """Flux: rectified flow with an exponential time shift."""
    table = np.array([_flux_sigma(time / 10_000, mu) for time in range(1, 10_001)])
    return _parameterisation(table, prediction=Prediction.FLOW, time=Time.FLUX, shift=mu)


def cascade(shift: float = 1.0) -> Parameterisation:
    """Stable Cascade: cosine schedule with a shifted signal-to-noise ratio; time runs over 0..1.

    Sources: Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17; the shift, Hoogeboom et al. 2023, arXiv:2301.11093.
    """
    table = np.array([_cascade_sigma(time / 10_000, shift) for time in range(1, 10_001)])
    return _parameterisation(table, prediction=Prediction.EPSILON, time=Time.COSINE, shift=shift)


def edm(
    prediction: Prediction = Prediction.V, *, sigma_min: float = 0.002, sigma_max: float = 120.0
) -> Parameterisation:
    """EDM: continuous noise levels, of data of unit variance. The network is told ln(sigma) / 4.

    `table` has 1000 of them, even in the logarithm, for schedules that choose among a model's levels.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1; the defaults are ComfyUI's ModelSamplingContinuousEDM's.
    """
    logs = linspace(math.log(sigma_min), math.log(sigma_max), 1000)
    table = np.array([single(math.exp(log)) for log in logs])
    return _parameterisation(table, prediction=prediction, time=Time.EDM)


def single(value: float) -> float:
    """A number as float32 keeps it."""
    return float(np.float32(value))


def linspace(first: float, last: float, count: int) -> NDArray[np.float32]:
    """`torch.linspace`, bit for bit: steps from both ends to the middle, each with one rounding, as its kernels fuse
    multiplication and addition."""
    start, end = np.float32(first), np.float32(last)
    if count == 1:
        return np.array([start])
    step = np.float64((end - start) / np.float32(count - 1))
    number = np.arange(count)
    rising, falling = np.float64(start) + step * number, np.float64(end) - step * (count - 1 - number)
    return np.where(number < count // 2, rising, falling).astype(np.float32)


def _without_signal(kept: Float64) -> Float64:
    """Shares of the image in the variance, rescaled so that the last is none: its root is shifted, and scaled so that
    the first stays what it is.

    Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv:2305.08891, algorithm
    1; the last share is not 0, but `PURE_NOISE`.
    """
    roots = np.sqrt(kept)
    rescaled: Float64 = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    rescaled[-1] = PURE_NOISE
    return rescaled


def _parameterisation(
    table: Float64, *, prediction: Prediction, time: Time, shift: float = 1.0, multiplier: float = 1.0
) -> Parameterisation:
    return Parameterisation(
        prediction=prediction,
        time=time,
        table=table.astype(np.float32).astype(np.float64),
        log_table=np.log(table).astype(np.float32),
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
