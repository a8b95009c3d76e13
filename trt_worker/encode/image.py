"""One picture to bytes."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trt_worker.delivery import EncodedImage
from trt_worker.job import ImageFormat

WEBP_QUALITY = 95
WEBP_METHOD = 2
"""Effort of the encoder, 0..6. At this quality 2 to 6 give the same size and PSNR, and 6 takes six times as long."""

PNG_LEVEL = 1
"""zlib effort, 0..9. Level 4 saves a tenth of the bytes and takes half as long again."""

JPEG_QUALITY = 95


def encode_image(pixels: NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    """Compress a picture, without metadata; blocks, and releases the GIL while it compresses.

    Args:
        pixels: uint8 [height, width, 3], RGB.
    Raises: ValueError: the array is no RGB picture.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ValueError(f"a picture is uint8 [height, width, 3], this is {pixels.dtype} {list(pixels.shape)}")
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    match image_format:
        case ImageFormat.WEBP:
            picture.save(buffer, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
        case ImageFormat.PNG:
            picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
        case ImageFormat.JPEG:
            picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    return buffer.getvalue()


def finished_image(pixels: NDArray[np.uint8], image_format: ImageFormat, *, index: int, seed: int) -> EncodedImage:
    """Compress and hash a picture in one go, so that the hash costs the event loop nothing either."""
    data = encode_image(pixels, image_format)
    height, width, _ = pixels.shape
    return EncodedImage(
        index=index,
        seed=seed,
        width=width,
        height=height,
        format=image_format,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
    )
