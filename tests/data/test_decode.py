"""One image from its file: each format, turned upright, and refused if it is too large."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.pictures import BLUE, RED, make_folder, picture, two_classes
from qffs.data import decode, load
from qffs.errors import DataError

CORNERS = Image.new("RGB", (24, 16), RED)
CORNERS.paste(BLUE, (0, 0, 8, 8))


def content(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


FORMATS = {
    "jpg": ("JPEG", {}), "jfif": ("JPEG", {}), "png": ("PNG", {}), "webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}), "tif": ("TIFF", {}), "TIFF": ("TIFF", {"compression": "tiff_lzw"}), "ppm": ("PPM", {}),
    "gif": ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (24, 16), BLUE)]}),
}  # fmt: skip


@pytest.mark.parametrize("end", FORMATS)
def test_each_format_is_read(end: str, tmp_path: Any) -> None:
    kind, options = FORMATS[end]
    data = content(Image.new("RGB", (8, 8), RED), kind, **options)
    path = make_folder(tmp_path / "pets", two_classes() | {f"train/cat/00.{end}": data})
    pixels = load(str(path), progress=False).train.images[0]
    assert np.abs(pixels[:, 4, 4].numpy().astype(int) - RED).max() <= 2  # the rounding of JPEG


def test_gray_of_a_pgm_is_read() -> None:
    assert decode.decode(content(Image.new("L", (4, 4), 90), "PPM"), "it", None).tolist() == [[[90] * 3] * 4] * 4


def deep_png(colors: int, channels: int) -> bytes:
    """Return a PNG of 256 x 1 pixels with 16 bits: the upper 8 are 0 to 255, the lower all 0 or all 1."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    values = (np.arange(256) * 256 + np.arange(256) % 2 * 255).astype(">u2").repeat(channels)
    header = struct.pack(">IIBBBBB", 256, 1, 16, colors, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + values.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("colors", "channels"), [(2, 3), (6, 4)])
def test_colors_of_16_bits_are_scaled_to_8(colors: int, channels: int) -> None:
    wanted = [[[value] * 3 for value in range(256)]]
    assert decode.decode(deep_png(colors, channels), "it", None).tolist() == wanted
    values = (np.arange(256) * 257).astype(">u2").repeat(3).tobytes()
    assert decode.decode(b"P6 256 1 65535\n" + values, "it", None).tolist() == wanted


def test_gray_of_16_bits_is_refused() -> None:
    for data in (deep_png(0, 1), b"P5 2 1 65535\n\0\1\2\3"):
        with pytest.raises(DataError, match="it has more than 8 bits per pixel value: save it with 8 bits"):
            decode.decode(data, "it", None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int, kind: str) -> None:
    turned = CORNERS
    if orientation in decode._UPRIGHT:
        there = decode._UPRIGHT[orientation]
        back = {
            Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
            Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
        }
        turned = CORNERS.transpose(back.get(there, there))
    exif = Image.Exif()
    exif[decode.ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode.decode(content(turned, kind, exif=exif, **options), "it", None).astype(int)
    assert found.shape == (16, 24, 3)
    assert np.abs(found - np.asarray(CORNERS).astype(int)).max() <= 3


@pytest.mark.parametrize("value", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION] = value
    assert decode.decode(content(CORNERS, "PNG", exif=exif), "it", None).tolist() == np.asarray(CORNERS).tolist()


def test_the_exif_of_a_photograph_is_that_of_the_standard() -> None:
    """A phone that is held upright stores the top of the scene at the right: orientation 6."""
    scene = Image.new("RGB", (4, 8), RED)
    scene.paste(BLUE, (0, 0, 4, 4))  # blue sky
    stored = scene.transpose(Image.Transpose.ROTATE_90)  # counterclockwise: the sky is at the left, as in 8
    exif = Image.Exif()
    exif[decode.ORIENTATION] = 6
    assert (
        decode.decode(content(stored, "PNG", exif=exif), "it", None)[:, 0].tolist()
        == [list(BLUE)] * 4 + [list(RED)] * 4
    )


@pytest.mark.parametrize("factor", [1, 4])
def test_a_small_file_with_very_many_pixels_is_refused_before_it_is_decoded(
    factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "PIXELS", 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * factor)  # Pillow refuses twice as many
    data = picture(size=(20, 15))
    monkeypatch.setattr(Image.Image, "load", None)
    with decode.patient(), pytest.raises(DataError) as caught:
        decode.decode(data, "it", None)
    assert str(caught.value) == "it has more than 100 pixels: remove it, or save it in a smaller size"


@pytest.mark.parametrize("side", [(3000, 2), (2, 3000)])
def test_a_narrow_image_that_a_size_makes_too_large_is_refused(side: tuple[int, int]) -> None:
    assert decode.decode(picture(size=side), "it", 8).shape == (8, 8, 3)
    with pytest.raises(DataError) as caught:
        decode.decode(picture(size=side), "it", 8192)
    assert str(caught.value) == (
        "it has more than 134,217,728 pixels when its shorter side has 8,192: give a smaller size"
    )


def test_a_large_photograph_is_read_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with decode.patient():
        assert decode.decode(picture(size=(20, 15)), "it", None).shape == (15, 20, 3)
