"""The CIFAR-10 pickles (``cifar-10-batches-py``), read without running code from the pickles."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qffs.data.dataset import Dataset, Images
from qffs.data.photographs import MEAN, STD
from qffs.errors import DataError

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_META = "batches.meta"
_VALUES = 3 * 32 * 32

LARGEST = 2**30
"""The size in bytes of the largest file that is read, 300,000 images; those of CIFAR-10 have a thirtieth of it."""


def find_batches(path: Path) -> Path | None:
    """Return the folder of the pickles if ``path`` is this folder or its parent, else None."""
    for folder in (path, path / _FOLDER):
        if folder.is_dir() and (
            folder.name == _FOLDER or any((folder / name).is_file() for name in (*_TRAIN, _TEST, _META))
        ):
            return folder
    return None


def read_batches(folder: Path, name: str, *, cifar10: bool) -> Dataset:
    """Return the images of the five training batches and the test batch, 32 x 32 RGB, in the order of the files.

    name: the name of the dataset. cifar10: require 10 classes. Raises `DataError`, with the name of the file, if a file
    is missing, damaged or refused.
    """
    classes = _read_classes(folder / _META)
    if cifar10 and len(classes) != 10:
        raise DataError(f"{folder / _META} names {len(classes)} classes, but CIFAR-10 has 10")
    train = [_read_batch(folder / batch, len(classes)) for batch in _TRAIN]
    test = [_read_batch(folder / _TEST, len(classes))]
    return Dataset(name, classes, _images(train), _images(test), mean=MEAN, std=STD, peak=255.0)


def _images(batches: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Images:
    """Return the images of all batches, one after the other, as tensors that own their memory."""
    pixels = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(pixels), torch.from_numpy(np.concatenate([labels for _, labels in batches])))


def _read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names, in the order of the labels."""
    names = _unpickle(path).get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} holds no list of class names (label_names)")
    return tuple(name.decode("utf-8", "replace") for name in names)


def _read_batch(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels [N, 3072] and labels [N] of one batch; each row contains the red, green and blue plane."""
    batch = _unpickle(path)
    pixels, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_VALUES,):
        raise DataError(f"{path} holds no images of 32 x 32 RGB bytes (data)")
    if len(pixels) == 0:
        raise DataError(f"{path} holds no images")
    if (
        not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(isinstance(label, int) and 0 <= label < classes for label in labels)
    ):
        raise DataError(f"{path} must hold one label from 0 to {classes - 1} for each of its {len(pixels)} images")
    return pixels, np.array(labels, np.int64)


def _unpickle(path: Path) -> dict[Any, Any]:
    """Return the dictionary in a pickle file; raise `DataError` if there is none or the file is refused."""
    if path.exists() and not path.is_file():  # opening a pipe would wait forever
        raise DataError(f"{path} is no regular file")
    if path.is_file() and path.stat().st_size > LARGEST:
        raise DataError(f"{path} has more than the {LARGEST // 2**30} GiB that are read: split it, or give image files")
    try:
        with path.open("rb") as stream:
            content = _Unpickler(stream, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path} is refused: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    # A damaged pickle can raise nearly anything: EOFError, IndexError, KeyError, TypeError, MemoryError.
    except Exception as error:
        raise DataError(f"{path} is truncated, damaged, or no pickle file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no dictionary")
    return content


def _encode(text: str, encoding: str) -> bytes:
    """Return text as bytes, as ``_codecs.encode`` does in pickles that Python 3 writes for Python 2."""
    if encoding not in {"latin1", b"latin1"}:
        raise DataError(f"it asks for the codec {encoding!r}, which these files do not need")
    return text.encode("latin1")


def _dtype(code: str, align: object = False, copy: object = True) -> np.dtype[Any]:
    """Return the type with a code, as ``numpy.dtype`` does in pickles."""
    # The standard files contain 0 and 1, but NumPy 2.4.0 to 2.4.4 warn unless they receive True or False.
    return np.dtype(code, align=bool(align), copy=bool(copy))


# The function that NumPy writes into a pickle, read from an array, because its module was renamed.
_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]

_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that allows only what these files need, because a pickle can call any function that it names."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return the allowed object with this name; raise `DataError` on any other."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise DataError(f"it asks for {module}.{name}, which these files do not need") from None
