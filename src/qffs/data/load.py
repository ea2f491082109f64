"""Datasets from the words with which a user names them."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from qffs.data.dataset import Dataset
from qffs.data.digits import read_digits
from qffs.errors import DataError, InvalidArgument

NEVER_RESIZED = "a size fits only image files given as images:PATH or PATH: {} is never resized"
LARGEST_SIZE = 2**13
"""The largest size: a square of it has 67 million pixels, half of the most that an image may have."""
_FORMS = "digits, cifar10:PATH, images:PATH, or the PATH of a zip or folder that exists"


def load(
    spec: str, size: int | None = None, *, in_memory_gib: float = 8.0, unlabeled: bool = False, progress: bool = True
) -> Dataset:
    """Return the dataset that ``spec`` names.

    spec: one of these forms.
        ``digits``: the handwritten digits that are shipped with the library, 8 x 8 and gray.
        ``images:PATH``, or only PATH if it exists: a zip or folder with ``train/<class>/*.jpg`` and
        ``test/<class>/*.jpg`` (or ``val``). The images are JPEG, PNG, WebP, BMP, TIFF, PPM or PGM files, or the first
        frames of GIF files; they are turned upright as their EXIF data say. A warning names other files there. These
        folders may be inside one common folder, or inside ImageNet's own ``ILSVRC/Data/CLS-LOC``, where ``val`` may be
        flat if Kaggle's ``LOC_val_solution.csv`` exists. PATH may also be the folder with the CIFAR-10 pickles
        (``cifar-10-batches-py``) or its parent.
        ``cifar10:PATH``: as ``images:PATH``, with exactly 10 classes of 32 x 32 pixels.
    size: resize the shorter side of each image to this number of pixels, at most `LARGEST_SIZE`, and cut out the center
        square; only for image files of ``images:PATH`` or PATH.
    in_memory_gib: decode all image files now if all images together take at most this many GiB of memory; if not, each
        image is decoded on access. 0 leaves all images in their files.
    unlabeled: accept a zip or folder of images without these folders too, which have no labels.
    progress: show progress bars on stderr.

    Raises `DataError` if the images cannot be read or used, such as a file of more than 128 MiB, an image of more than
    134 million pixels, or a zip that unpacks to more than 1 GiB and more than 100 times its size; and `InvalidArgument`
    on an invalid size or limit.
    """
    if not in_memory_gib >= 0:
        raise InvalidArgument(f"the images held in memory must be limited to 0 GiB or more, not {in_memory_gib!r}")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE):
        raise InvalidArgument(f"the image size must be a whole number from 1 to {LARGEST_SIZE:,}, not {size!r}")
    kind, path = _parse(spec)
    if kind == "digits":
        if size is not None:
            raise InvalidArgument(NEVER_RESIZED.format(spec))
        return read_digits()
    from qffs.data.cifar import find_batches, read_batches
    from qffs.data.photographs import read_photographs

    batches = find_batches(path)
    if size is not None and (kind != "images" or batches is not None):
        raise InvalidArgument(NEVER_RESIZED.format(spec))
    cifar10 = kind == "cifar10"
    whole = path.resolve()
    name = "CIFAR-10" if cifar10 else whole.stem if whole.is_file() else whole.name
    if batches is not None:
        return read_batches(batches, name, cifar10=cifar10)
    data = read_photographs(path, name, size=size, cifar10=cifar10, unlabeled=unlabeled, progress=progress)
    return in_memory(data, in_memory_gib, progress=progress)


def in_memory(data: Dataset, gib: float = 8.0, *, progress: bool = True) -> Dataset:
    """Return the dataset with its image files decoded if all images together take at most ``gib`` GiB of memory.

    If they take more, or are in memory already, return ``data`` unchanged. progress: show a progress bar on stderr.
    Raises `DataError` if a file is broken, with its name, or if the memory is too small.
    """
    if isinstance(data.train.images, Tensor) and isinstance(data.test.images, Tensor):
        return data
    from qffs.data.photographs import decoded

    return decoded(data, gib, progress=progress)


def _parse(spec: str) -> tuple[str, Path]:
    """Return "digits", "cifar10" or "images", and the path, which "digits" does not use.

    Raises `DataError` if the path does not exist.
    """
    kind, _, rest = spec.partition(":")
    if spec == "digits":
        return "digits", Path()
    if kind in {"cifar10", "images"} and rest:
        path = os.path.expanduser(rest)
        if not os.path.exists(path):
            raise DataError(f"{path} does not exist")
        return kind, Path(path)
    path = os.path.expanduser(spec)
    # os.path instead of pathlib, which raises on the home of an unknown user and on a name that is too long.
    if not os.path.exists(path):
        raise DataError(f"{spec!r} names no data: use {_FORMS}")
    return "images", Path(path)
