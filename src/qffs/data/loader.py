"""Batches of labeled images, which worker processes read ahead."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from qffs.data.dataset import Images
from qffs.errors import DataError

Batch = tuple[Tensor, Tensor]


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
