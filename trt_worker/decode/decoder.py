"""Latents to pictures, through the VAE decoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_engines.backend import Engine
from trt_engines.errors import EngineFault
from trt_worker.decode.pixels import PixelConverter, rows_not_finite


class Decoder:
    """Runs one VAE decoder engine. Not for several threads at once: it belongs to whoever owns the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._converter = PixelConverter()

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Decode latents, as many rows per engine call as the engine has.

        Args:
            latents: float32 [rows, channels, height / scale, width / scale], in the denoiser's units.
        Returns: uint8 [rows, height, width, 3], RGB, the caller's own.
        Raises: EngineFault: the engine failed, or its output (or a latent) is not finite; the message names the rows.
        """
        if bad := rows_not_finite(latents):
            raise EngineFault(f"{self._engine.spec.label}: not given latents that are not finite (rows {_list(bad)})")
        bucket = self._engine.spec.bucket
        pixels = np.empty((len(latents), bucket.height, bucket.width, 3), np.uint8)
        for first in range(0, len(latents), bucket.rows):
            rows = min(bucket.rows, len(latents) - first)
            self._engine.inputs["latent"][:rows] = latents[first : first + rows]
            self._engine.run(rows)
            decoded = self._engine.outputs["pixels"][:rows]
            if bad := rows_not_finite(decoded):
                numbers = tuple(first + row for row in bad)
                raise EngineFault(f"{self._engine.spec.label}: output is not finite (rows {_list(numbers)})")
            self._converter.to_pixels(decoded, pixels[first : first + rows])
        return pixels


def _list(rows: tuple[int, ...]) -> str:
    return ", ".join(map(str, rows))
