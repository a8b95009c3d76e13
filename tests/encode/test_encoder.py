from __future__ import annotations

import anyio
import numpy as np
import pytest

from trt_worker.delivery import EncodedImage
from trt_worker.encode.encoder import Encoder, usable_cores
from trt_worker.encode.image import finished_image
from trt_worker.job import ImageFormat

PIXELS = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)


def test_the_loop_goes_on_while_a_picture_is_compressed() -> None:
    async def main() -> int:
        turns = 0
        encoder = Encoder()
        async with anyio.create_task_group() as tasks:

            async def encode() -> None:
                await encoder.encode(PIXELS, ImageFormat.WEBP, index=0, seed=1)
                tasks.cancel_scope.cancel()

            tasks.start_soon(encode)
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1
        return turns

    assert anyio.run(main) > 20  # on the loop itself, it would be one or two


def test_pictures_come_back_as_if_encoded_alone() -> None:
    async def main() -> list[EncodedImage]:
        encoder = Encoder(threads=2)
        finished: list[EncodedImage] = []

        async def encode(index: int) -> None:
            finished.append(await encoder.encode(PIXELS[index:], ImageFormat.PNG, index=index, seed=index))

        async with anyio.create_task_group() as tasks:
            for index in range(5):
                tasks.start_soon(encode, index)
        return finished

    finished = anyio.run(main)
    expected = [finished_image(PIXELS[index:], ImageFormat.PNG, index=index, seed=index) for index in range(5)]
    assert sorted(finished, key=lambda image: image.index) == expected


def test_pictures_past_the_threads_wait() -> None:
    async def main() -> int:
        encoder = Encoder(threads=1)
        most = 0
        async with anyio.create_task_group() as tasks:
            for index in range(3):

                async def encode(index: int = index) -> None:
                    await encoder.encode(PIXELS, ImageFormat.WEBP, index=index, seed=0)

                tasks.start_soon(encode)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                most = max(most, encoder.waiting)
        return most

    assert anyio.run(main) == 2


def test_a_broken_picture_raises_at_its_caller() -> None:
    async def main() -> None:
        await Encoder().encode(np.zeros((4, 4), np.uint8), ImageFormat.PNG, index=0, seed=0)

    with pytest.raises(ValueError, match="uint8"):
        anyio.run(main)


def test_there_is_a_thread_per_core_and_never_none() -> None:
    assert Encoder().threads == usable_cores() >= 1
    with pytest.raises(ValueError, match="at least 1"):
        Encoder(threads=0)
