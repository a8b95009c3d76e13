from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trt_worker.condition.source import source_pixels
from trt_worker.errors import BadSourceImage


def a_picture(width: int = 32, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Red left half, blue right half."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture.convert(mode)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pixels_run_from_minus_one_to_one_channels_first() -> None:
    pixels = source_pixels(saved(a_picture()), 32, 16, False)

    assert pixels.shape == (3, 16, 32)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert pixels[:, 0, 0].tolist() == [1, -1, -1]
    assert pixels[:, 0, -1].tolist() == [-1, -1, 1]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_common_formats_are_read(kind: str) -> None:
    pixels = source_pixels(saved(a_picture(), kind), 32, 16, False)

    assert pixels[0, 8, 4] > 0.9
    assert pixels[2, 8, -4] > 0.9


def test_stretching_keeps_both_ends_and_cropping_takes_the_middle() -> None:
    picture = Image.new("RGB", (64, 16), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 16, 16))
    picture.paste((0, 0, 255), (48, 0, 64, 16))

    stretched = source_pixels(saved(picture), 16, 16, False)
    cropped = source_pixels(saved(picture), 16, 16, True)

    assert stretched[0, 8, 0] > 0.9
    assert stretched[2, 8, -1] > 0.9
    assert (cropped[1] == 1).all()
    assert (cropped[0] == -1).all()


def test_a_tall_source_is_cropped_at_top_and_bottom() -> None:
    picture = Image.new("RGB", (16, 64), (255, 0, 0))
    picture.paste((0, 255, 0), (0, 16, 16, 48))

    cropped = source_pixels(saved(picture), 16, 32, True)

    assert (cropped[1] == 1).all()
    assert (cropped[0] == -1).all()


def test_the_orientation_of_the_camera_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise

    pixels = source_pixels(saved(a_picture(), "JPEG", exif=exif, quality=95), 16, 32, False)

    assert pixels[0, 2, 8] > 0.8  # left became top
    assert pixels[2, -2, 8] > 0.8


def test_the_colour_under_transparency_is_kept() -> None:
    picture = a_picture().convert("RGBA")
    picture.putalpha(0)

    assert source_pixels(saved(picture), 32, 16, False)[:, 0, 0].tolist() == [1, -1, -1]


def test_sixteen_bit_greys_keep_their_brightness() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))

    assert source_pixels(saved(grey), 8, 8, False)[:, 0, 0] == pytest.approx([0x80 / 127.5 - 1] * 3, abs=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"

    assert source_pixels(saved(a_picture(mode=mode), kind), 8, 8, False).shape == (3, 8, 8)


def a_png_that_claims(width: int, height: int) -> bytes:
    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = block(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + body + block(b"IEND", b"")


@pytest.mark.parametrize(
    ("size", "complaint"),
    [((8193, 8192), "claims 8193x8192"), ((10_000, 10_000), "Decompression"), ((60_000, 60_000), "Decompression")],
)
def test_a_small_file_that_claims_a_huge_picture_is_refused_unread(size: tuple[int, int], complaint: str) -> None:
    with pytest.raises(BadSourceImage, match=complaint):
        source_pixels(a_png_that_claims(*size), 64, 64, False)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", saved(a_picture(256, 256))[:200], saved(a_picture(), "TIFF"), a_png_that_claims(64, 64)],
    ids=["nothing", "html", "truncated", "a format nobody needs", "too few rows"],
)
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadSourceImage) as refused:
        source_pixels(data, 64, 64, False)

    assert str(len(data)) in str(refused.value)


GOOD = tuple(saved(a_picture(24, 24), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8), st.data())
def test_any_damage_ends_in_a_picture_or_a_refusal(
    good: bytes, flips: list[tuple[int, int]], data: st.DataObject
) -> None:
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for position, value in flips:
        if damaged:
            damaged[position % len(damaged)] = value
    try:
        pixels = source_pixels(bytes(damaged), 16, 16, True)
    except BadSourceImage:
        return
    assert pixels.shape == (3, 16, 16)
    assert np.isfinite(pixels).all()


@pytest.mark.parametrize("size", [(300, 1), (1, 300), (301, 1), (2, 301)])
def test_an_extreme_strip_is_cropped_to_at_least_one_line(size: tuple[int, int]) -> None:
    pixels = source_pixels(saved(Image.new("RGB", size, (255, 0, 255))), 16, 16, True)

    assert pixels.shape == (3, 16, 16)
    assert pixels.min(axis=(1, 2)).tolist() == pixels.max(axis=(1, 2)).tolist() == [1, -1, 1]
