"""Labeled images, their normalization, and a held-out part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qffs.errors import InvalidArgument


class Pixels(Protocol):
    """Images that are read when they are asked for; what a uint8 tensor [N, C, H, W] does, as far as it is needed."""

    @property
    def shape(self) -> torch.Size:
        """``[N, C, H, W]``."""

    @property
    def dtype(self) -> torch.dtype:
        """``torch.uint8``."""

    def __getitem__(self, numbers: Tensor | slice) -> Tensor:
        """The images of these numbers, uint8 [B, C, H, W]; raises `DataError` where one cannot be read."""

    def select(self, numbers: Tensor) -> Pixels:
        """Only the images of these numbers, in their order; none is read."""


# Without eq=False, comparing two of these would compare tensors element by element and fail.
@dataclass(frozen=True, eq=False)
class Images:
    """Images and what each of them shows.

    ``images``: uint8 [N, C, H, W], not normalized: a tensor, or `Pixels`, which are read when they are asked for.
    ``labels``: int64 [N], places in ``Dataset.classes``. Raises `InvalidArgument` on other types or shapes.
    """

    images: Tensor | Pixels
    labels: Tensor

    def __post_init__(self) -> None:
        count, *rest = self.images.shape
        if self.images.dtype != torch.uint8 or len(rest) != 3:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise InvalidArgument(f"images must be torch.uint8 [N, C, H, W], not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            found = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise InvalidArgument(f"labels must be torch.int64 [{count}], one an image, not {found}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one image."""
        return tuple(self.images.shape[1:])

    def read(self, numbers: Tensor) -> Tensor:
        """The images of these numbers, uint8 [B, C, H, W]; raises `DataError` where one cannot be read."""
        return self.images[numbers]

    def select(self, numbers: Tensor) -> Images:
        """Only the images of these numbers, in their order; those in files stay there."""
        images = self.images[numbers] if isinstance(self.images, Tensor) else self.images.select(numbers)
        return Images(images, self.labels[numbers])

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Images and labels of these numbers: what a ``torch.utils.data.DataLoader`` asks for."""
        chosen = torch.tensor(numbers, dtype=torch.int64)
        return self.read(chosen), self.labels[chosen]


@dataclass(frozen=True)
class Dataset:
    """A training and a test part with the same classes.

    ``peak`` is the pixel value of full brightness: 255 in photographs, 16 in the digits. ``mean`` and ``std``
    hold one number a channel, of pixels divided by ``peak``.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    peak: float

    def normalize(self, images_uint8: Tensor) -> Tensor:
        """Return ``(x / peak - mean) / std`` of uint8 [B, C, H, W], as float32 of the same shape on the same device.

        Raises `InvalidArgument` on another type, or on a number of channels other than that of ``mean``.
        """
        # Floats are refused because they may be scaled already; one channel, because it would broadcast to three.
        if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != len(self.mean):
            found = f"{images_uint8.dtype} {list(images_uint8.shape)}"
            raise InvalidArgument(f"{self.name} normalizes torch.uint8 [B, {len(self.mean)}, H, W], not {found}")
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        return (images_uint8.to(torch.float32) / self.peak - mean) / std


def hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Split at random into a part to keep and a part to hold out: ``(kept, held_out)``.

    The held-out part has ``round(fraction * N)`` images; each image is in exactly one part, and both parts
    keep the order of ``images``. The same seed gives the same split. Raises `InvalidArgument` if fraction
    does not lie between 0 and 1, or if a part would be empty.
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
    held, kept = order[:count].sort().values, order[count:].sort().values
    return images.select(kept), images.select(held)
