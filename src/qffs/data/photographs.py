"""JPEG and PNG images of a zip or folder, by part and class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from qffs.data.archive import Archive, open_archive
from qffs.data.dataset import Dataset, Images
from qffs.errors import DataError
from qffs.progress import track

# The usual statistics of ImageNet photographs, which most trained networks expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_SUFFIXES = (".jpg", ".jpeg", ".png")
_LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or val; also .jpeg and .png)"
# Below this many pixels an image, two threads take about twice as long as one (measured at 32 x 32, equal at
# 160 x 160), because they fight over the interpreter; at 500 x 375 they take half as long.
_THREADS_FROM_PIXELS = 256 * 256


def read_photographs(path: Path, name: str, *, size: int | None, cifar10: bool, progress: bool) -> Dataset:
    """Return the photographs of a zip or folder, as RGB, sorted by class and then by file name.

    ``size``: resize the shorter side to this and cut out the centre square; None keeps the images as they
    are. ``cifar10``: insist on 10 classes of 32 x 32 pixels. Raises `DataError`.
    """
    with open_archive(path) as archive:
        train, test = _classes(archive, "train"), _classes(archive, "test", "val")
        if train.keys() != test.keys():
            only = [f"{part} has no {cls}" for part, cls in _differences(train.keys(), test.keys())]
            raise DataError(f"the classes of train and test differ in {path}: {', '.join(only)}")
        classes = tuple(sorted(train))
        if cifar10 and len(classes) != 10:
            raise DataError(f"{path} has {len(classes)} classes, but CIFAR-10 has 10: for other images use images:PATH")
        files = [file for part in (train, test) for cls in classes for file in sorted(part[cls])]
        pixels = torch.from_numpy(_decode_all(archive, files, size, cifar10=cifar10, progress=progress))
    parts = [
        torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(part[cls]) for cls in classes]))
        for part in (train, test)
    ]
    count = len(parts[0])
    # Re-encoding CIFAR-10 as JPEG costs accuracy, so a figure on it must say so.
    lossy = cifar10 and any(not file.lower().endswith(".png") for file in files)
    return Dataset(
        f"{name} (JPEG)" if lossy else name,
        classes,
        Images(pixels[:count], parts[0]),
        Images(pixels[count:], parts[1]),
        mean=MEAN,
        std=STD,
        peak=255.0,
    )


def _classes(archive: Archive, *parts: str) -> dict[str, list[str]]:
    """Return the image files of each class, of the first of ``parts`` that is there; raises `DataError` on a gap."""
    part = next((part for part in parts if any(name.startswith(f"{part}/") for name in archive.names)), None)
    if part is None:
        raise DataError(f"{archive.path} has no {' or '.join(parts)} folder: expected {_LAYOUT}")
    classes: dict[str, list[str]] = {}
    for name in archive.names:
        if not name.startswith(f"{part}/"):
            continue
        _, *between, file = name.split("/")
        if between:
            classes.setdefault(between[0], [])
        if file.lower().endswith(_SUFFIXES):
            if not between:
                raise DataError(f"{archive.label(name)} lies in no class folder: expected {_LAYOUT}")
            classes[between[0]].append(name)
    if not any(classes.values()):
        raise DataError(f"{archive.label(part)} holds no images: expected {_LAYOUT}")
    for cls, files in sorted(classes.items()):
        if not files:
            raise DataError(f"the class folder {archive.label(f'{part}/{cls}')} holds no .jpg, .jpeg or .png image")
    return classes


def _differences(train: Iterable[str], test: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give each class that only one part has, after the part that lacks it; the first few of them."""
    for cls in sorted(set(train) ^ set(test))[:5]:
        yield ("test" if cls in train else "train"), cls


def _decode_all(
    archive: Archive, files: Sequence[str], size: int | None, *, cifar10: bool, progress: bool
) -> NDArray[np.uint8]:
    """Return all images as uint8 [N, 3, H, W]; raises `DataError` on a broken one or one of another size."""
    first_height, first_width, _ = _decode(archive, files[0], None).shape
    height, width = (32, 32) if cifar10 else (size or first_height, size or first_width)
    try:
        out = np.empty((len(files), 3, height, width), np.uint8)
    except MemoryError as error:
        found = f"{len(files)} images of {width} x {height} pixels in {archive.path}"
        raise DataError(f"{found} do not fit in memory: give a smaller size= or fewer images") from error

    def store(index: int) -> None:
        # Into its own place, so that the order does not depend on which thread is done first.
        image = _decode(archive, files[index], size)
        if image.shape[:2] != (height, width):
            found = f"{archive.label(files[index])} is {image.shape[1]} x {image.shape[0]} pixels"
            if cifar10:
                raise DataError(f"{found}, but CIFAR-10 images are 32 x 32: for other images use images:PATH")
            raise DataError(
                f"{found}, but {archive.prefix}{files[0]} is {width} x {height}: "
                "give a size (--size) to resize and crop all images to one size"
            )
        out[index] = image.transpose(2, 0, 1)

    workers = 2 if first_height * first_width >= _THREADS_FROM_PIXELS else 1
    with track("decoding", len(files), "images", show=progress) as bar, ThreadPoolExecutor(workers) as pool:
        run = map if workers == 1 else pool.map
        for _ in run(store, range(len(files))):
            bar.advance()
    return out


def _decode(archive: Archive, name: str, size: int | None) -> NDArray[np.uint8]:
    """Return one image as RGB, uint8 [H, W, 3]; raises `DataError` if it is broken or has more than 8 bits a value."""
    data = archive.read(name)
    try:
        # Only these two: Pillow would hand other contents to decoders nobody asked for, even to Ghostscript.
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            deep = image.mode.startswith(("I", "F"))
            # Pillow warns if the transparency of a palette is dropped in one step.
            palette = image.mode == "P" and "transparency" in image.info
            rgb = (image.convert("RGBA") if palette else image).convert("RGB")
    # Pillow's decoders raise many kinds of error for a broken file, SyntaxError and struct.error among them.
    except Exception as error:
        raise DataError(f"{archive.label(name)} is broken, or is not a JPEG or PNG image") from error
    if deep:
        # Pillow clips every value above 255 to white.
        raise DataError(f"{archive.label(name)} has more than 8 bits a pixel value: save it with 8 bits")
    return np.asarray(rgb if size is None else _square(rgb, size))


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the image with its shorter side resized to ``size``, and of that the centre square."""
    short = min(image.size)
    width, height = (max(size, int(side * size / short)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
