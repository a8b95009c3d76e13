from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trt_engines.backend import EngineSpec
from trt_engines.bucket import Bucket
from trt_engines.errors import EngineFault
from trt_engines.model import Component, Model
from trt_worker.decode.decoder import Decoder


class GreyDecoder:
    """A VAE decoder that paints each row in the grey its latent's first value names; it counts its calls."""

    def __init__(self, rows: int) -> None:
        model = Model(
            name="grey",
            folder=Path(),
            architecture="stable_diffusion_1",
            prediction="epsilon",
            latent_channels=4,
            latent_scale=8,
            context_width=8,
            native_width=64,
            native_height=64,
            checkpoint_files=frozenset(),
            graphs={},
            weights={},
            vocab=Path(),
            merges=Path(),
        )
        self.spec = EngineSpec(
            model=model, component=Component.VAE_DECODER, bucket=Bucket(width=24, height=16, rows=rows)
        )
        self.inputs: dict[str, NDArray[Any]] = {"latent": np.zeros((rows, 4, 2, 3), np.float32)}
        self.outputs: dict[str, NDArray[Any]] = {"pixels": np.zeros((rows, 3, 16, 24), np.float32)}
        self.calls: list[int] = []
        self.poison: float | None = None

    def run(self, rows: int) -> None:
        self.calls.append(rows)
        pixels = self.outputs["pixels"]
        pixels[:] = np.nan  # what a caller must not read: rows that were not asked for
        pixels[:rows] = self.inputs["latent"][:rows, 0, 0, 0][:, None, None, None]
        if self.poison is not None and len(self.calls) == 2:
            pixels[1, 2, 15, 23] = self.poison

    def close(self) -> None:
        pass


def latents(*greys: float) -> NDArray[np.float32]:
    return np.broadcast_to(np.asarray(greys, np.float32)[:, None, None, None], (len(greys), 4, 2, 3)).copy()


def test_more_latents_than_rows_take_several_calls_and_come_back_in_order() -> None:
    engine = GreyDecoder(rows=2)

    pixels = Decoder(engine).decode(latents(-1, -0.5, 0, 0.5, 1))

    assert engine.calls == [2, 2, 1]
    assert pixels.shape == (5, 16, 24, 3)
    assert pixels[:, 5, 5, 1].tolist() == [0, 63, 127, 191, 255]
    assert all(len(np.unique(picture)) == 1 for picture in pixels)


def test_pixels_stay_when_the_engine_runs_again() -> None:
    decoder = Decoder(GreyDecoder(rows=1))

    first = decoder.decode(latents(0))
    decoder.decode(latents(1))

    assert (first == 127).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_a_fault_that_names_the_row(value: float) -> None:
    engine = GreyDecoder(rows=2)
    engine.poison = value

    with pytest.raises(EngineFault, match=r"grey/vae_decoder/24x16r2t77: output is not finite \(rows 3\)"):
        Decoder(engine).decode(latents(0, 0, 0, 0, 0))


def test_latents_that_are_not_finite_are_never_given_to_the_engine() -> None:
    engine = GreyDecoder(rows=2)

    with pytest.raises(EngineFault, match=r"rows 0, 2"):
        Decoder(engine).decode(latents(np.nan, 0, np.inf))

    assert engine.calls == []
