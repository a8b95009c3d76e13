"""What jobs ask for where nobody has counted them: the default histogram of an architecture.

The ranges are the network's own. The grid takes widths and heights of 256 to 1536 in steps of 64, and for a source
image without an explicit size 512 to 1280 in steps of 32 at no more than 1280 * 736 pixels; a job has 1 to 4 images.
How often each size comes is published nowhere that we found. The weights below are assumptions: most people ask for the
native size or a usual aspect ratio of the same area, few for anything else, one image at a time and a short prompt.
A tally of the worker's own jobs replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trt_engines.profiles.histogram import Demand, Histogram

LEAST, MOST, STEP = 256, 1536, 64
"""Pixels: sizes that a client may ask the grid for."""

SOURCE_LEAST, SOURCE_MOST, SOURCE_STEP, SOURCE_PIXELS = 512, 1280, 32, 1280 * 736
"""Pixels: sizes that the grid derives from a source image."""

USUAL_SHARE, ANY_SHARE, SOURCE_SHARE = 0.80, 0.12, 0.08
"""Assumption: shares of jobs in a usual size, in any other one, and in the size of a source image."""

USUAL: dict[int, tuple[tuple[int, int, float], ...]] = {
    512: (
        (512, 512, 30),
        (512, 768, 22),
        (768, 512, 12),
        (512, 640, 5),
        (640, 512, 3),
        (576, 768, 4),
        (768, 576, 3),
        (768, 768, 6),
        (512, 896, 3),
        (896, 512, 3),
        (576, 1024, 2),
        (1024, 576, 2),
        (1024, 1024, 5),
    ),
    768: (
        (768, 768, 34),
        (768, 1024, 14),
        (1024, 768, 9),
        (640, 960, 8),
        (960, 640, 5),
        (512, 768, 6),
        (768, 512, 4),
        (512, 512, 10),
        (576, 1024, 4),
        (1024, 576, 3),
        (1024, 1024, 3),
    ),
    1024: (
        (1024, 1024, 40),
        (832, 1216, 16),
        (1216, 832, 10),
        (896, 1152, 7),
        (1152, 896, 5),
        (768, 1344, 4),
        (1344, 768, 5),
        (768, 1024, 2),
        (1024, 768, 2),
        (512, 512, 3),
        (768, 768, 3),
        (640, 1536, 1),
        (1536, 640, 1),
        (1024, 1536, 1),
    ),
}
"""Assumption: usual sizes by the side of the square a family was trained on, with their weights.

Those of 1024 are the aspect buckets of the SDXL report (arXiv:2307.01952, appendix I) that front ends offer.
"""

IMAGES = ((1, 0.80), (2, 0.07), (3, 0.03), (4, 0.10))
"""Assumption: images of a job."""

TOKENS = (0.75, 0.18, 0.07)
"""Assumption: shares of the lengths of text that buckets are made for, shortest first."""


def default_histogram(
    *, native_pixels: int, tokens: Sequence[int], guidance_rows: int, size_step: int = STEP
) -> Histogram:
    """The default histogram of an architecture.

    Args:
        native_pixels: of one picture that the family was trained for.
        tokens: lengths of text that buckets are made for, shortest first; the first three are weighted.
        guidance_rows: denoiser rows of one image.
        size_step: what widths and heights of the architecture are multiples of; sizes of source images, which come in
            steps of 32, are there only if it divides them.
    """
    side = min(USUAL, key=lambda known: abs(known * known - native_pixels))
    lengths = list(zip(tokens, TOKENS, strict=False))
    return Histogram.of(
        Demand(
            width=width,
            height=height,
            rows=images * guidance_rows,
            tokens=length,
            weight=weight * image_weight * length_weight,
        )
        for width, height, weight in _sizes(side, sources=SOURCE_STEP % size_step == 0)
        for images, image_weight in IMAGES
        for length, length_weight in lengths
    )


def _sizes(side: int, *, sources: bool) -> Iterator[tuple[int, int, float]]:
    usual = USUAL[side]
    total = sum(weight for _, _, weight in usual)
    yield from ((width, height, USUAL_SHARE * weight / total) for width, height, weight in usual)
    everything = [
        (width, height, _closeness(width, height, side))
        for width in range(LEAST, MOST + 1, STEP)
        for height in range(LEAST, MOST + 1, STEP)
    ]
    total = sum(weight for _, _, weight in everything)
    yield from ((width, height, ANY_SHARE * weight / total) for width, height, weight in everything)
    if sources:
        derived = [
            (width, height)
            for width in range(SOURCE_LEAST, SOURCE_MOST + 1, SOURCE_STEP)
            for height in range(SOURCE_LEAST, SOURCE_MOST + 1, SOURCE_STEP)
            if (width - SOURCE_STEP // 2) * (height - SOURCE_STEP // 2) <= SOURCE_PIXELS  # held before rounding
        ]
        yield from ((width, height, SOURCE_SHARE / len(derived)) for width, height in derived)


def _closeness(width: int, height: int, side: int) -> float:
    """Rarer by half for every doubling or halving of the native area."""
    ratio = width * height / side**2
    return min(ratio, 1 / ratio)
