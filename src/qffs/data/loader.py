"""Batches of labeled images, read ahead by worker processes."""

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
    """Images and labels of each of these groups of numbers, read ahead by ``workers`` processes where there are any.

    They come in the order of the groups, whatever the workers, and no random number of PyTorch's own is drawn. Raises
    `DataError` where an image cannot be read.
    """
    loader: DataLoader[Batch | DataError] = DataLoader(
        _Answers(images),  # type: ignore[arg-type]  # it calls __getitems__ where there is one
        batch_sampler=(group.tolist() for group in numbers),
        num_workers=workers,
        worker_init_fn=_leave_signals,
        collate_fn=_as_it_is,  # it has been collated where it was read
        generator=torch.Generator(),
    )
    for answer in loader:
        if isinstance(answer, DataError):
            raise answer
        yield answer


@dataclass(frozen=True)
class _Answers:
    """Batches, or why there is none: an error that leaves a worker process would arrive with its traceback as text."""

    images: Images

    def __getitems__(self, numbers: list[int]) -> Batch | DataError:
        try:
            return self.images.__getitems__(numbers)
        except DataError as error:
            return error


def _leave_signals(_: int) -> None:
    """Signals to a whole group of processes are for the one that reads, which ends its workers when it stops."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)


def _as_it_is(answer: Any) -> Any:
    return answer
