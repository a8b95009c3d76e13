"""PyTorch's CUDA generator, restated."""

from __future__ import annotations

import numpy as np
import pytest

from trt_engines.philox import philox_4x32, philox_randn


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFF_FFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_test_vectors(
    counter: tuple[int, ...], seed: int, expected: tuple[int, ...]
) -> None:
    words = np.array(counter, np.uint64).reshape(4, 1)

    assert tuple(int(word) for word in philox_4x32(words, seed)[:, 0]) == expected


def test_an_image_of_a_batch_has_the_part_of_the_stream_that_follows_its_neighbours() -> None:
    batch = philox_randn(9, (3, 4, 8, 8), call=2)

    alone = philox_randn(9, (4, 8, 8), call=2, first=2 * 4 * 8 * 8)

    np.testing.assert_array_equal(batch[2], alone)
