"""JPEG and PNG images of a zip or folder, in memory where they fit, else left in their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qffs.data.archive import Archive, open_archive
from qffs.data.dataset import Dataset, Images
from qffs.data.decode import decode, patient
from qffs.data.files import Files
from qffs.data.layout import Classes, read_layout
from qffs.errors import DataError
from qffs.progress import track, wait

# The usual statistics of ImageNet photographs, which most trained networks expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Below this many pixels an image, two threads take about twice as long as one (measured at 32 x 32, equal at
# 160 x 160), because they fight over the interpreter; at 500 x 375 they take half as long.
_THREADS_FROM_PIXELS = 256 * 256


@dataclass(frozen=True, eq=False)
class Photographs:
    """Images in files, decoded when they are asked for: `qffs.data.dataset.Pixels`, [N, 3, height, width].

    ``size``: what their shorter side is resized to, before the centre is cut out; None leaves them as they are.
    ``otherwise``: how the message about one of another height or width goes on.
    """

    files: Files
    height: int
    width: int
    size: int | None
    otherwise: str
    dtype = torch.uint8

    @property
    def shape(self) -> torch.Size:
        """``[N, 3, height, width]``."""
        return torch.Size((len(self.files), 3, self.height, self.width))

    def select(self, numbers: Tensor | slice) -> Photographs:
        """Only the images of these numbers, in their order; none is read."""
        files = self.files.select(numbers if isinstance(numbers, slice) else numbers.numpy())
        return Photographs(files, self.height, self.width, self.size, self.otherwise)

    def __getitem__(self, numbers: Tensor | slice) -> Tensor:
        """The images of these numbers, uint8 [B, 3, height, width]; raises `DataError` naming one that is broken."""
        return self.select(numbers).decoded()

    def decoded(self, each: Callable[[], None] = lambda: None, threads: int = 1) -> Tensor:
        """All images, uint8 [N, 3, height, width]; ``each`` is called after each of them."""
        out = np.empty(self.shape, np.uint8)

        def store(number: int) -> None:
            # Into its own place, so that the order does not depend on which thread is done first.
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
            raise DataError(f"{label} is {image.shape[1]} x {image.shape[0]} pixels, but {self.otherwise}")
        return image


def read_photographs(
    path: Path, name: str, *, size: int | None, cifar10: bool, in_memory_bytes: float, progress: bool
) -> Dataset:
    """Return the photographs of a zip or folder, as RGB, sorted by class and then by file name.

    ``size``: resize the shorter side to this and cut out the centre square; None keeps the images as they
    are. ``cifar10``: insist on 10 classes of 32 x 32 pixels. ``in_memory_bytes``: images that take more stay in their
    files. Raises `DataError`.
    """
    with wait(f"listing the images of {path}", show=progress):
        archive = open_archive(path)
        layout = read_layout(archive)
        if cifar10 and len(layout.classes) != 10:
            found = f"{path} has {len(layout.classes)} classes"
            raise DataError(f"{found}, but CIFAR-10 has 10: for other images use images:PATH")
        names = [[file for files in part.values() for file in files] for part in (layout.train, layout.test)]
        parts, threads = _photographs(archive, names, size, cifar10)
    images: Iterable[Photographs | Tensor] = parts
    if sum(part.shape.numel() for part in parts) <= in_memory_bytes:
        images = _in_memory(path, parts, threads, progress)
    # Re-encoding CIFAR-10 as JPEG costs accuracy, so a figure on it must say so.
    lossy = cifar10 and any(not file.lower().endswith(".png") for part in names for file in part)
    name = f"{name} (JPEG)" if lossy else name
    train, test = (Images(*pair) for pair in zip(images, map(_labels, (layout.train, layout.test)), strict=True))
    return Dataset(name, layout.classes, train, test, mean=MEAN, std=STD, peak=255.0)


def _photographs(
    archive: Archive, names: list[list[str]], size: int | None, cifar10: bool
) -> tuple[list[Photographs], int]:
    """Return the images of each part, of the size of the first one, and how many threads suit them."""
    first = archive.files(names[0][:1])
    with patient():
        height, width, _ = decode(first.read(0), first.label(0), None).shape
    threads = 2 if height * width >= _THREADS_FROM_PIXELS else 1
    height, width = (32, 32) if cifar10 else (size or height, size or width)
    otherwise = (
        "CIFAR-10 images are 32 x 32: for other images use images:PATH"
        if cifar10
        else f"{archive.prefix}{names[0][0]} is {width} x {height}: give a size (size=160, or --size 160) to "
        "resize and crop all images to one size"
    )
    return [Photographs(archive.files(part), height, width, size, otherwise) for part in names], threads


def _in_memory(path: Path, parts: list[Photographs], threads: int, progress: bool) -> list[Tensor]:
    """Return all images of each part, decoded."""
    count, _, height, width = (sum(len(part.files) for part in parts), *parts[0].shape[1:])
    try:
        with track("decoding", count, "images", show=progress) as bar:
            return [part.decoded(bar.advance, threads) for part in parts]
    except MemoryError as error:
        found = f"{count} images of {width} x {height} pixels in {path}"
        raise DataError(f"{found} do not fit in memory: give a smaller size") from error


def _labels(part: Classes) -> Tensor:
    """Return the place of its class for each image of a part."""
    counts = torch.tensor([len(files) for files in part.values()])
    return torch.repeat_interleave(torch.arange(len(counts)), counts)
