from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from trt_worker.encode.image import encode_image, finished_image
from trt_worker.job import ImageFormat


def a_picture(width: int = 64, height: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some texture."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    return np.asarray(np.clip(smooth + random.normal(0, 4, smooth.shape), 0, 255), np.uint8)


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize(
    ("image_format", "name"), [(ImageFormat.WEBP, "WEBP"), (ImageFormat.PNG, "PNG"), (ImageFormat.JPEG, "JPEG")]
)
def test_each_format_is_what_it_says_without_metadata(image_format: ImageFormat, name: str) -> None:
    opened = Image.open(io.BytesIO(encode_image(a_picture(), image_format)))

    assert (opened.format, opened.size, opened.mode) == (name, (64, 48), "RGB")
    assert not opened.getexif()
    assert not {"exif", "xmp", "comment", "icc_profile", "prompt"} & set(opened.info)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 70), height=st.integers(1, 70), seed=st.integers(0, 9))
def test_png_gives_every_pixel_back(width: int, height: int, seed: int) -> None:
    pixels = a_picture(width, height, seed)

    assert np.array_equal(decoded(encode_image(pixels, ImageFormat.PNG)), pixels)


@pytest.mark.parametrize("image_format", [ImageFormat.WEBP, ImageFormat.JPEG])
def test_lossy_formats_stay_close(image_format: ImageFormat) -> None:
    pixels = a_picture(256, 256)

    assert psnr(decoded(encode_image(pixels, image_format)), pixels) > 36


def test_jpeg_keeps_the_full_resolution_of_colour() -> None:
    opened = Image.open(io.BytesIO(encode_image(a_picture(), ImageFormat.JPEG)))

    assert [component[1:3] for component in opened.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_a_view_into_a_batch_is_encoded_like_a_copy_of_it() -> None:
    batch = np.stack([a_picture(seed=0), a_picture(seed=1)])[:, ::2]

    assert encode_image(batch[1], ImageFormat.WEBP) == encode_image(batch[1].copy(), ImageFormat.WEBP)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_rgb_picture_is_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_image(pixels, ImageFormat.PNG)


def test_a_finished_image_carries_the_hash_of_its_own_bytes() -> None:
    image = finished_image(a_picture(), ImageFormat.WEBP, index=2, seed=2**63)

    assert image.sha256 == hashlib.sha256(image.data).hexdigest()
    assert (image.index, image.seed, image.width, image.height) == (2, 2**63, 64, 48)
    assert image.format is ImageFormat.WEBP
