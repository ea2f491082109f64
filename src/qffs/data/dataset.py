"""Labeled images: their normalization, the split into two parts, and batches that worker processes read ahead."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qffs.errors import DataError, InvalidArgument

Batch = tuple[Tensor, Tensor]
"""Images uint8 ``[B, C, H, W]`` and their labels int64 ``[B]``."""


class Pixels(Protocol):
    """Images that are read on access, with the part of the interface of a uint8 tensor [N, C, H, W] that is needed."""

    @property
    def shape(self) -> torch.Size:
        """``[N, C, H, W]``."""

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8``."""

    def __getitem__(self, numbers: Tensor | slice) -> Tensor:
        """Return the images with these indices, uint8 [B, C, H, W]; raise `DataError` if one cannot be read."""

    def select(self, numbers: Tensor) -> Pixels:
        """Return the images with these indices, in this order, without reading them."""

    def digest(self) -> str:
        """Return a hash that is another one for other images."""


# Without eq=False, comparing two of these would compare tensors element by element and fail.
@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels.

    images: uint8 [N, C, H, W], not normalized: a tensor, or `Pixels`, which are read on access.
    labels: int64 [N], indices into ``Dataset.classes``. Raises `InvalidArgument` on other types or shapes.
    """

    images: Tensor | Pixels
    labels: Tensor

    def __post_init__(self) -> None:
        count, *rest = self.images.shape
        if self.images.dtype != torch.uint8 or len(rest) != 3:
            actual = f"{self.images.dtype} {list(self.images.shape)}"
            raise InvalidArgument(f"images must be torch.uint8 [N, C, H, W], not {actual}")
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            actual = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise InvalidArgument(f"labels must be torch.int64 [{count}], one per image, not {actual}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(C, H, W)`` of one image."""
        return tuple(self.images.shape[1:])

    def read(self, numbers: Tensor) -> Tensor:
        """Return the images with these indices, uint8 [B, C, H, W]; raise `DataError` if one cannot be read."""
        return self.images[numbers]

    def select(self, numbers: Tensor) -> Images:
        """Return the images and labels with these indices, in this order; images in files are not read."""
        images = self.images[numbers] if isinstance(self.images, Tensor) else self.images.select(numbers)
        return Images(images, self.labels[numbers])

    def digest(self) -> str:
        """Return a hash of the images and labels: of files their names, their sizes and some contents, as `Files` does.

        Decode images only afterward: other versions of a decoder give other values for the same file.
        """
        if isinstance(self.images, Tensor):
            images = hashlib.sha256(self.images.contiguous().numpy().data).hexdigest()
        else:
            images = self.images.digest()
        return hashlib.sha256(f"{images} {self.labels.tolist()}".encode()).hexdigest()

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Return images and labels with these indices, for a ``torch.utils.data.DataLoader``; see `read`."""
        chosen = torch.tensor(numbers, dtype=torch.int64)
        return self.read(chosen), self.labels[chosen]


@dataclass(frozen=True)
class Dataset:
    """A training and a test part with the same classes.

    name: the name for tables and messages. classes: the names of the classes. peak: the pixel value of full brightness,
    255 in photographs and 16 in the digits. mean, std: one number per channel, for pixels divided by ``peak``. labeled:
    whether the classes are known; if not, there is one class without a name.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    peak: float
    labeled: bool = True

    @property
    def fingerprints(self) -> dict[str, str]:
        """The hashes by which the data are known: ``data``, of name, sizes, classes and all labels, and ``images``.

        The second is of both parts' `Images.digest`, while images that come from files are in them.
        """
        parts = [
            (part.shape, hashlib.sha256(part.labels.numpy().tobytes()).hexdigest()) for part in (self.train, self.test)
        ]
        known = hashlib.sha256(repr((self.name, self.classes, parts)).encode()).hexdigest()
        return {"data": known, "images": self.train.digest() + self.test.digest()}

    def normalize(self, images_uint8: Tensor) -> Tensor:
        """Return ``(x / peak - mean) / std`` of uint8 [B, C, H, W], in float32, with the same shape and device.

        Raises `InvalidArgument` on another type, or if the number of channels is not that of ``mean``.
        """
        # Floats are refused because they may be scaled already; one channel, because it would broadcast to three.
        if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != len(self.mean):
            actual = f"{images_uint8.dtype} {list(images_uint8.shape)}"
            raise InvalidArgument(f"{self.name} normalizes torch.uint8 [B, {len(self.mean)}, H, W], not {actual}")
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        return (images_uint8.to(torch.float32) / self.peak - mean) / std


def hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Return a random split into two parts: the images to keep, and the held-out images.

    The held-out part has ``round(fraction * N)`` images. Each image is in exactly one part, and both parts keep the
    order of ``images``. The same seed gives the same split. Raises `InvalidArgument` if ``fraction`` is not between 0
    and 1, or if a part would be empty.
    """
    if not 0 < fraction < 1:
        raise InvalidArgument(f"the held-out fraction must lie between 0 and 1, not {fraction}")
    count = round(fraction * len(images))
    if not 0 < count < len(images):
        part = "held-out" if count == 0 else "kept"
        raise InvalidArgument(
            f"holding out a fraction of {fraction} of {len(images)} images leaves the {part} part empty"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    second, first = order[:count].sort().values, order[count:].sort().values
    return images.select(first), images.select(second)


def batches(images: Images, numbers: Sequence[Tensor], workers: int = 0) -> Iterator[Batch]:
    """Yield the images and labels of each batch: uint8 ``[B, C, H, W]`` and int64 ``[B]``.

    numbers: the indices of the images of each batch. workers: the number of processes that read batches ahead; with 0,
    this process reads them itself. The order of the batches does not depend on the workers, and no random number is
    drawn from PyTorch's global generator. Raises `DataError` if an image cannot be read.
    """
    loader: DataLoader[Batch | DataError] = DataLoader(
        _Answers(images),  # type: ignore[arg-type]  # it calls __getitems__ if the dataset has this method
        batch_sampler=(group.tolist() for group in numbers),
        num_workers=workers,
        worker_init_fn=_leave_signals,
        collate_fn=_as_it_is,  # __getitems__ returns whole batches
        generator=torch.Generator(),
    )
    for answer in loader:
        if isinstance(answer, DataError):
            raise answer
        yield answer


@dataclass(frozen=True)
class _Answers:
    """The images as a dataset that returns errors: a worker that raises one would send it as text with a traceback."""

    images: Images

    def __getitems__(self, numbers: list[int]) -> Batch | DataError:
        try:
            return self.images.__getitems__(numbers)
        except DataError as error:
            return error


def _leave_signals(_: int) -> None:
    """Ignore SIGTERM and SIGINT in a worker: the main process handles them and ends its workers when it stops."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)


def _as_it_is(answer: Any) -> Any:
    return answer
