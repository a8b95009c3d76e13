"""Who fills an input of a network."""

from __future__ import annotations

from enum import StrEnum


class Feed(StrEnum):
    """Who fills an input of a network, and with what."""

    STATE = "state"  # the row's sample, scaled to what the network sees at its noise level
    TIME = "time"  # the row's noise level in the network's time, see `NoiseLevels`
    TEXT = "text"  # what prompting gives under the input's name
    GUIDANCE = "guidance"  # the job's guidance, of a network that is distilled for it
    SIZES = "sizes"  # SDXL's time ids: the picture's height and width, top and left of its crop, height and width
    MASK = "mask"  # inpainting: 1 where a latent position is to be painted
    MASKED = "masked"  # inpainting: the latent of the source picture without what is to be painted
    REFERENCE = "reference"  # latents of pictures that an edit looks at
    BEFORE = "before"  # the latent that the pass before has finished
    ZEROS = "zeros"  # nothing: all zero
    IDS = "ids"  # a text encoder's token numbers
    KEPT = "kept"  # a text encoder's mask: True for a prompt's own tokens, False for padding
    PIXELS = "pixels"  # a picture, -1..1
    LATENT = "latent"  # a finished latent
