"""One image from the content of its file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qffs.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""The formats that are read. Without this list, Pillow would use other decoders too, even Ghostscript."""

PIXELS = 2**27
"""The largest number of pixels of an image: 134 million, more than the largest cameras have."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image of each orientation upright; EXIF 2.3, section 4.6.4."""


def decode(data: bytes, label: str, size: int | None) -> NDArray[np.uint8]:
    """Return one image as RGB, uint8 [H, W, 3], with its shorter side resized to ``size`` and the center cut out.

    The image is turned upright if its EXIF data say how the camera was held; of several frames it is the first. size:
    None does not resize. The content decides the format, not the name (ImageNet has a PNG with the suffix .JPEG).
    Colors with 16 bits per value are scaled to 8. Raises `DataError`, with the label, if the image is broken,
    is gray with more than 8 bits per value, or has more than `PIXELS` pixels.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            large = image.width * image.height > PIXELS
            deep = image.mode.startswith(("I", "F"))
            if not large:
                image.load()  # turns a TIFF upright itself
                turn = _UPRIGHT.get(_orientation(image) or 1)
                rgb = _rgb(image if turn is None else image.transpose(turn))
    except Image.DecompressionBombError:
        large = True
    # Pillow's decoders raise many kinds of errors for a broken file, including SyntaxError and struct.error.
    except Exception as error:
        raise DataError(f"{label} is broken, or is no image of a known format ({', '.join(FORMATS)})") from error
    if large:
        raise DataError(f"{label} has more than {PIXELS:,} pixels: remove it, or save it in a smaller size")
    if size is not None and size * size * max(rgb.size) > PIXELS * min(rgb.size):
        raise DataError(
            f"{label} has more than {PIXELS:,} pixels when its shorter side has {size:,}: give a smaller size"
        )
    if deep:
        # Pillow clips every value above 255 to white.
        raise DataError(f"{label} has more than 8 bits per pixel value: save it with 8 bits")
    return np.asarray(rgb if size is None else _square(rgb, size))


def _orientation(image: Image.Image) -> int | None:
    """Return the orientation in the EXIF data of an image; None if it has none, or EXIF data that cannot be read."""
    try:
        orientation: int | None = image.getexif().get(ORIENTATION)
    except Exception:  # as of a broken file, but the pixels have been read
        return None
    return orientation


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB."""
    # Pillow warns if the transparency of a palette is dropped in one step.
    palette = image.mode == "P" and "transparency" in image.info
    return (image.convert("RGBA") if palette else image).convert("RGB")


@contextmanager
def patient() -> Iterator[None]:
    """Ignore Pillow's warnings about unreadable EXIF tags, which some photographs of ImageNet have.

    Ignore its warnings about large images too, because `decode` has a limit of its own.

    Use it around a loop and not around each image, because all threads share the filters of warnings.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Jpeg)ImagePlugin")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the center square of the image after its shorter side is resized to ``size``."""
    short = min(image.size)
    width, height = (max(size, int(side * size / short)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
