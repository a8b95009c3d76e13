"""What of a file from outside is drawn, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from trt_worker.errors import BadSourceImage
from trt_worker.pictures import FORMATS, picture_size, read_picture

NOISE = Image.effect_noise((96, 64), 80).convert("RGB")


def a_picture(width: int = 32, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Red left half, blue right half."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture.convert(mode)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    """Says that the picture is to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def a_png_that_claims(width: int, height: int, behind: bytes = b"") -> bytes:
    """A PNG of a few rows. Args: behind: a block that stands behind its pixels."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = block(b"IDAT", zlib.compress(b"\0" * 1000)) + (block(b"eXIf", behind) if behind else b"")
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + body + block(b"IEND", b"")


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(read_picture(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_listed_format_is_read(kind: str) -> None:
    pixels = pixels_of(saved(a_picture(), kind))

    assert pixels[8, 4, 0] > 240
    assert pixels[8, -4, 2] > 240


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO"])
def test_a_format_nobody_needs_is_refused(kind: str) -> None:
    with pytest.raises(BadSourceImage, match="cannot be decoded"):
        read_picture(saved(a_picture(), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_of_the_camera_is_applied_before_the_size_is_told(kind: str) -> None:
    data = saved(a_picture(), kind, exif=turned())

    assert picture_size(data) == (16, 32)
    assert pixels_of(data)[2, 8, 0] > 200  # left became top
    assert pixels_of(data)[-2, 8, 2] > 200


@pytest.mark.parametrize("size", [(16, 8), (64, 32)], ids=["whole", "rows are missing"])
def test_an_orientation_that_stands_behind_the_pixels_is_applied_too(size: tuple[int, int]) -> None:
    data = a_png_that_claims(*size, behind=turned().tobytes().removeprefix(b"Exif\0\0"))

    assert Image.open(io.BytesIO(data)).size == size
    assert picture_size(data) == size[::-1]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    data = saved(a_picture(), kind, save_all=True, append_images=[Image.new("RGB", (32, 16), (0, 255, 0))])

    assert pixels_of(data)[8, 4].tolist()[0] > 240


def test_the_colour_under_transparency_is_kept() -> None:
    picture = a_picture().convert("RGBA")
    picture.putalpha(0)

    assert pixels_of(saved(picture))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_keep_their_brightness(kind: str) -> None:
    grey = Image.fromarray(np.array([[0, 255, 0x8000, 0xFFFF]], np.uint16))

    assert pixels_of(saved(grey, kind))[0, :, 1].tolist() == [0, 1, 0x80, 255]


def test_32_bit_greys_are_read_like_those_of_sixteen() -> None:
    grey = Image.fromarray(np.array([[-5, 1000, 0x8000, 2**20]], np.int32))

    assert pixels_of(saved(grey, "TIFF"))[0, :, 1].tolist() == [0, 3, 0x80, 255]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"

    assert read_picture(saved(a_picture(mode=mode), kind)).mode == "RGB"


def in_pillow_s_lenient_mode(data: bytes, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """What is there of a file, as Pillow reads it under its process-wide switch, which ComfyUI uses."""
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("kept", [0.999, 0.6, 0.3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("PNG", {"exif": turned()}), ("JPEG", {}), ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": turned()}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"exif": turned()}),
    ],
)  # fmt: skip
def test_of_a_file_that_is_cut_short_what_is_there_is_drawn(
    kind: str, options: dict[str, Any], kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved(NOISE, kind, **options)
    data = whole[: int(len(whole) * kept)]

    assert np.array_equal(pixels_of(data), in_pillow_s_lenient_mode(data, monkeypatch))


@pytest.mark.parametrize("name", ["no-eoi.jpg", "truncated.jpg"])
def test_a_photograph_without_its_last_bytes_is_drawn(
    name: str, the_picture: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = pixels_of(the_picture(name))

    assert pixels.shape == (192, 256, 3)
    assert np.array_equal(pixels, in_pillow_s_lenient_mode(the_picture(name), monkeypatch))


def test_damaged_pictures_are_read_in_many_threads_while_whole_ones_are_still_required_elsewhere(
    the_picture: Callable[[str], bytes],
) -> None:
    data = the_picture("truncated.jpg")
    expected = pixels_of(data)

    def strictly(_: int) -> bool:
        with pytest.raises(OSError, match="truncated"):
            Image.open(io.BytesIO(data)).load()
        return np.array_equal(pixels_of(data), expected)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(strictly, range(40)))


@pytest.mark.parametrize(
    ("size", "complaint"),
    [((8193, 8192), "claims 8193x8192"), ((10_000, 10_000), "Decompression"), ((60_000, 60_000), "Decompression")],
)
def test_a_small_file_that_claims_a_huge_picture_is_refused_unread(size: tuple[int, int], complaint: str) -> None:
    with pytest.raises(BadSourceImage, match=complaint):
        read_picture(a_png_that_claims(*size))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", saved(NOISE, "JPEG")[:100], saved(NOISE, "WEBP")[:-9], saved(NOISE, "AVIF")[:-9]],
    ids=["nothing", "html", "a piece of a header", "a WebP cut short", "an AVIF cut short"],
)
def test_what_is_no_picture_or_nothing_of_one_is_refused(data: bytes) -> None:
    with pytest.raises(BadSourceImage) as refused:
        read_picture(data)

    assert str(len(data)) in str(refused.value)


GOOD = tuple(saved(a_picture(24, 24), kind) for kind in FORMATS)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged tags in TIFF and EXIF
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
        picture = read_picture(bytes(damaged))
    except BadSourceImage:
        return
    assert picture.mode == "RGB"
