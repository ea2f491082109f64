"""Image files of a zip or folder, in memory if they fit, else in their files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qffs.data.archive import Archive, open_archive
from qffs.data.class_folders import Classes, read_layout
from qffs.data.dataset import Dataset, Images
from qffs.data.decode import decode, patient
from qffs.data.files import Files
from qffs.errors import DataError
from qffs.progress import track, wait

# The usual statistics of ImageNet photographs, which most trained networks expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WebP", ".gif": "GIF"}
"""The formats that change an image, by the end of the name."""

SHOWN = 5
"""The number of files that are named where files are left out."""

GIB = 2**30
"""The number of bytes in one GiB."""

# For images with fewer pixels, two threads take about twice as long as one (measured at 32 x 32; equal at 160 x 160),
# because they wait for each other at the interpreter lock; at 500 x 375 they take half as long.
_THREADS_FROM_PIXELS = 256 * 256


@dataclass(frozen=True, eq=False)
class Photographs:
    """Images in files, decoded on access: `qffs.data.dataset.Pixels` of shape [N, 3, height, width].

    size: the length to which the shorter side is resized before the center is cut out; None does not resize.
    advice: the end of the message about an image of another height or width. threads: the fastest number of threads.
    """

    files: Files
    height: int
    width: int
    size: int | None
    advice: str
    threads: int = 1
    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        """The shape ``[N, 3, height, width]``."""
        return torch.Size((len(self.files), 3, self.height, self.width))

    def select(self, numbers: Tensor | slice) -> Photographs:
        """Return the images with these indices, in this order, without reading them."""
        files = self.files.select(numbers if isinstance(numbers, slice) else numbers.numpy())
        return dataclasses.replace(self, files=files)

    def digest(self) -> str:
        """Return the hash of `Files.digest`."""
        return self.files.digest()

    def __getitem__(self, numbers: Tensor | slice) -> Tensor:
        """Return the images with these indices, uint8 [B, 3, height, width]; raise `DataError` if one is broken."""
        return self.select(numbers).decoded()

    def decoded(self, each: Callable[[], None] = lambda: None, threads: int = 1) -> Tensor:
        """Return all images, uint8 [N, 3, height, width]; call ``each`` after each image."""
        out = np.empty(self.shape, np.uint8)

        def store(number: int) -> None:
            # At the index of the image, so that the order does not depend on which thread ends first.
            out[number] = self._decode(number).transpose(2, 0, 1)

        with patient(), ThreadPoolExecutor(threads) as pool:
            run: Callable[..., Iterable[None]] = map if threads == 1 else pool.map
            for _ in run(store, range(len(out))):
                each()
        return torch.from_numpy(out)

    def _decode(self, number: int) -> NDArray[np.uint8]:
        label = self.files.label(number)
        image = decode(self.files.read(number), label, self.size)
        if image.shape[:2] != (self.height, self.width):
            raise DataError(f"{label} is {image.shape[1]} x {image.shape[0]} pixels, but {self.advice}")
        return image


def read_photographs(
    path: Path, name: str, *, size: int | None, cifar10: bool, unlabeled: bool, progress: bool
) -> Dataset:
    """Return the photographs of a zip or folder, as RGB, sorted by class and then by file name.

    size: resize the shorter side to this length and cut out the center square; None does not resize. cifar10: require
    10 classes of 32 x 32 pixels. unlabeled: accept images without classes. Only the first image is decoded. One warning
    names the files that are left out. Raises `DataError` if the images cannot be used.
    """
    with wait(f"listing the images of {path}", show=progress):
        archive = open_archive(path)
        layout = read_layout(archive, unlabeled and not cifar10)
        if cifar10 and len(layout.classes) != 10:
            actual = f"{path} has {len(layout.classes)} classes"
            raise DataError(f"{actual}, but CIFAR-10 has 10: for other images use images:PATH")
        names = [[file for files in part.values() for file in files] for part in (layout.train, layout.test)]
        images = _photographs(archive, names, size, cifar10)
    if layout.left_out:
        warnings.warn(_notice(path, layout.left_out), stacklevel=2)
    # JPEG reduces the accuracy on CIFAR-10, so the name of the dataset in a result must mention it.
    ends = {Path(file).suffix.lower() for part in names for file in part} if cifar10 else set()
    lossy = sorted({LOSSY[end] for end in ends & LOSSY.keys()})
    name = f"{name} ({', '.join(lossy)})" if lossy else name
    train, test = (Images(*pair) for pair in zip(images, map(_labels, (layout.train, layout.test)), strict=True))
    return Dataset(name, layout.classes, train, test, mean=MEAN, std=STD, peak=255.0, labeled=layout.labeled)


def _notice(path: Path, left_out: Mapping[str, str]) -> str:
    """Return the sentence about files that are left out: their number, and the first `SHOWN` with the reason."""
    shown = [f"{name} ({why})" for name, why in sorted(left_out.items())[:SHOWN]]
    more = [f"{len(left_out) - SHOWN:,} more"] if len(left_out) > SHOWN else []
    count = "1 file of {} is" if len(left_out) == 1 else f"{len(left_out):,} files of {{}} are"
    return f"{count.format(path)} left out: {', '.join(shown + more)}"


def _photographs(archive: Archive, names: list[list[str]], size: int | None, cifar10: bool) -> list[Photographs]:
    """Return the images of each part; they must have the size of the first image."""
    first = archive.files(names[0][:1])
    with patient():
        height, width, _ = decode(first.read(0), first.label(0), None).shape
    threads = 2 if height * width >= _THREADS_FROM_PIXELS else 1
    height, width = (32, 32) if cifar10 else (size or height, size or width)
    advice = (
        "CIFAR-10 images are 32 x 32: for other images use images:PATH"
        if cifar10
        else f"{archive.prefix}{names[0][0]} is {width} x {height}: give a size (size=160, or --size 160) to "
        "resize and crop all images to one size"
    )
    return [Photographs(archive.files(part), height, width, size, advice, threads) for part in names]


def decoded(data: Dataset, gib: float, *, progress: bool) -> Dataset:
    """Return the dataset with its image files decoded; see `qffs.data.in_memory`."""
    parts = [part.images for part in (data.train, data.test)]
    files = [images for images in parts if isinstance(images, Photographs)]
    if not files or sum(images.shape.numel() for images in parts) > gib * GIB:
        return data
    count = sum(len(images.files) for images in files)
    try:
        with track("decoding", count, "images", show=progress) as bar:
            pixels = [images.decoded(bar.advance, images.threads) for images in files]
    except MemoryError as error:
        actual = f"{count} images of {files[0].width} x {files[0].height} pixels in {data.name}"
        raise DataError(f"{actual} do not fit in memory: give a smaller size") from error
    train, test = (Images(*pair) for pair in zip(pixels, (data.train.labels, data.test.labels), strict=True))
    return dataclasses.replace(data, train=train, test=test)


def _labels(part: Classes) -> Tensor:
    """Return the label of each image of a part: the index of its class, int64 [N]."""
    counts = torch.tensor([len(files) for files in part.values()])
    return torch.repeat_interleave(torch.arange(len(counts)), counts)
