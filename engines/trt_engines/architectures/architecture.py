"""A family of checkpoints that share their graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trt_engines.architectures.denoising_pass import Pass
from trt_engines.architectures.network import Network, Role
from trt_engines.architectures.noise_levels import Prediction
from trt_engines.architectures.prompting import Prompting


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A family of checkpoints that share their graphs."""

    name: str  # "stable_diffusion_1", "sdxl", "flux_dev", ...
    title: str  # as people write it: "Stable Diffusion 1.5"
    aliases: tuple[str, ...]  # what the networks that give jobs call it; several architectures may have one in common
    networks: tuple[Network, ...]
    prompting: Prompting
    passes: tuple[Pass, ...]  # in the order in which a picture goes through them
    decoder: str  # network that makes pixels of the last pass's latent
    encoder: str  # network that makes the first pass's latent of pixels
    native_side: int  # pixels along each side of the square pictures that it was trained for
    size_step: int  # pixels: its networks compute pictures whose sides are multiples of this
    tokens: tuple[int, ...]  # lengths of text that buckets are made for, shortest first

    def network(self, name: str) -> Network:
        """The network called `name`.

        Raises: KeyError: there is none.
        """
        for network in self.networks:
            if network.name == name:
                return network
        raise KeyError(f"{self.name} has no network {name!r}; it has {', '.join(one.name for one in self.networks)}")

    @property
    def needed(self) -> frozenset[str]:
        """The networks without which nothing is drawn: all but the encoder of pictures."""
        encoders = {encoder.network for encoder in self.prompting.encoders}
        return frozenset(encoders | {one.denoiser for one in self.passes} | {self.decoder})

    @property
    def denoisers(self) -> tuple[Network, ...]:
        """The networks that are stepped, in the order in which a picture goes through them."""
        return tuple(network for network in self.networks if network.role is Role.DENOISER)

    def pass_of(self, denoiser: str) -> Pass:
        """The pass of a denoiser. Raises: KeyError: no pass is made with it."""
        for one in self.passes:
            if one.denoiser == denoiser:
                return one
        raise KeyError(f"{self.name} makes no pass with {denoiser!r}")

    @property
    def rows(self) -> int:
        """Denoiser rows of one image at the default guidance, in the pass that runs most."""
        return max(one.guidance.rows for one in self.passes)

    @property
    def prediction(self) -> Prediction:
        """What its first denoiser predicts."""
        return self.passes[0].levels.prediction

    def predicting(
        self,
        prediction: str | None = None,
        *,
        shift: float | None = None,
        zero_terminal_snr: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
    ) -> Architecture:
        """The same with other noise levels of its first pass, as single checkpoints have them.

        Args: see `NoiseLevels.with_checkpoint`.
        Raises: ValueError: there is no such prediction, or they contradict each other.
        """
        first, *others = self.passes
        levels = first.levels.with_checkpoint(
            prediction=prediction,
            shift=shift,
            zero_terminal_snr=zero_terminal_snr,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
        )
        return replace(self, passes=(replace(first, levels=levels), *others))
