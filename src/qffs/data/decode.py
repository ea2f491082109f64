"""From the bytes of a JPEG or PNG file to pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qffs.errors import DataError


def decode(data: bytes, label: str, size: int | None) -> NDArray[np.uint8]:
    """Return one image as RGB, uint8 [H, W, 3], with its shorter side resized to ``size`` and the centre cut out.

    The content tells what it is, not the name (ImageNet has a PNG called .JPEG). Raises `DataError`, with the label,
    if it is broken or has more than 8 bits a value.
    """
    try:
        # Only these two: Pillow would hand other contents to decoders nobody asked for, even to Ghostscript.
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            deep = image.mode.startswith(("I", "F"))
            # Pillow warns if the transparency of a palette is dropped in one step.
            palette = image.mode == "P" and "transparency" in image.info
            rgb = (image.convert("RGBA") if palette else image).convert("RGB")
    # Pillow's decoders raise many kinds of error for a broken file, SyntaxError and struct.error among them.
    except Exception as error:
        raise DataError(f"{label} is broken, or is not a JPEG or PNG image") from error
    if deep:
        # Pillow clips every value above 255 to white.
        raise DataError(f"{label} has more than 8 bits a pixel value: save it with 8 bits")
    return np.asarray(rgb if size is None else _square(rgb, size))


@contextmanager
def patient() -> Iterator[None]:
    """Pass over what Pillow says of EXIF tags that it cannot read, which some photographs of ImageNet have.

    Around a loop and not around each image, because the filters of warnings belong to all threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Jpeg)ImagePlugin")
        yield


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the image with its shorter side resized to ``size``, and of that the centre square."""
    short = min(image.size)
    width, height = (max(size, int(side * size / short)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
