"""Labelled images in memory, their normalisation, and a held-out part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qffs.errors import InvalidArgument


# Without eq=False, comparing two of these would compare tensors element by element and fail.
@dataclass(frozen=True, eq=False)
class Images:
    """Images and what each of them shows.

    ``images``: uint8 [N, C, H, W], not normalised. ``labels``: int64 [N], places in ``Dataset.classes``.
    Raises `InvalidArgument` on other types or shapes.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise InvalidArgument(f"images must be torch.uint8 [N, C, H, W], not {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise InvalidArgument(f"labels must be torch.int64 [{len(self.images)}], one an image, not {found}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one image."""
        return tuple(self.images.shape[1:])

    def read(self, numbers: Tensor) -> Tensor:
        """The images of these numbers, uint8 [B, C, H, W]."""
        return self.images[numbers]

    def select(self, numbers: Tensor) -> Images:
        """Only the images of these numbers, in their order."""
        return Images(self.images[numbers], self.labels[numbers])

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Images and labels of these numbers: what a ``torch.utils.data.DataLoader`` asks for."""
        chosen = torch.tensor(numbers)
        return self.read(chosen), self.labels[chosen]


def batches(images: Images, numbers: Sequence[Tensor], workers: int = 0) -> Iterable[tuple[Tensor, Tensor]]:
    """Images and labels of each of these groups of numbers, read ahead by ``workers`` processes where there are any."""
    groups = [group.tolist() for group in numbers]
    return DataLoader(images, batch_sampler=groups, num_workers=workers, collate_fn=_as_it_is)  # type: ignore[arg-type]


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

    def normalise(self, images_uint8: Tensor) -> Tensor:
        """Return ``(x / peak - mean) / std`` of uint8 [B, C, H, W], as float32 of the same shape on the same device.

        Raises `InvalidArgument` on another type, or on a number of channels other than that of ``mean``.
        """
        # Floats are refused because they may be scaled already; one channel, because it would broadcast to three.
        if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] != len(self.mean):
            found = f"{images_uint8.dtype} {list(images_uint8.shape)}"
            raise InvalidArgument(f"{self.name} normalises torch.uint8 [B, {len(self.mean)}, H, W], not {found}")
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_uint8.device).view(1, -1, 1, 1)
        return (images_uint8.to(torch.float32) / self.peak - mean) / std


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


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
