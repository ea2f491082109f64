"""Values over time that stay the same from step to step for most images, each held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseSteps:
    """What T steps of B images hold, accumulated over time; what stays the same from step to step is there once.

    ``values``: ``[R, ...]``; ``index``: int64 ``[T, B]``, so that image b holds ``values[index[t, b]]`` after step t;
    ``scale``: where the values are levels, whole numbers, the threshold that they are multiples of. Values that no
    index names may never have been written: `used` leaves them out.

    >>> rows = SparseSteps(torch.tensor([[1.0], [5.0]]), torch.tensor([[0, 0], [0, 1]]))
    >>> rows.dense().flatten()
    tensor([1., 1., 1., 5.])
    """

    values: Tensor
    index: Tensor
    scale: Tensor | None = None

    @staticmethod
    def of(dense: Tensor, steps: int) -> SparseSteps:
        """Those of ``[T * B, ...]``, whether or not they repeat."""
        return SparseSteps(dense, torch.arange(len(dense), device=dense.device).view(steps, -1))

    @property
    def numbers(self) -> SparseSteps:
        """The same with levels multiplied by their scale, in the scale's type."""
        if self.scale is None:
            return self
        kept = self.used()
        return SparseSteps(self._scaled(kept.values), kept.index)

    def used(self) -> SparseSteps:
        """The same with those values alone that an image holds at some step."""
        held, index = self.index.unique(return_inverse=True)
        return self if len(held) == len(self.values) else SparseSteps(take(self.values, held), index, self.scale)

    @property
    def size(self) -> torch.Size:
        """T and B."""
        return self.index.shape

    @property
    def empty_like(self) -> Tensor:
        """An empty tensor of the numbers' type and shape, ``[0, ...]``."""
        empty = self.values[:0]
        return empty if self.scale is None else empty.to(self.scale.dtype)

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.scale is None else values.to(self.scale.dtype).mul_(self.scale)

    def dense(self) -> Tensor:
        """``[T * B, ...]``, images of the first step first."""
        return self._scaled(take(self.values, self.index.flatten()))


def take(values: Tensor, numbers: Tensor) -> Tensor:
    """The rows of these numbers, in memory as the others are: channels last, say, stay last."""
    order = [0, *sorted(range(1, values.dim()), key=values.stride, reverse=True)]
    taken = values.permute(order).index_select(0, numbers)
    return taken.permute(sorted(range(len(order)), key=order.__getitem__))


def changed(dense: Tensor, changes: Tensor, scale: Tensor | None = None) -> SparseSteps:
    """Those of ``[T, B, ...]``, looked at only where ``changes`` ``[T, B]`` says so, and at the first step.

    >>> levels = torch.tensor([[[0]], [[2]], [[2]]], dtype=torch.uint8)
    >>> rows = changed(levels, torch.tensor([[False], [True], [False]]))
    >>> rows.values.flatten().tolist(), rows.index.flatten().tolist()
    ([0, 2, 2], [0, 1, 1])
    """
    number = torch.arange(changes.numel(), device=changes.device).view(changes.shape)
    # The last change before each step: numbers grow along time, so that is the largest.
    last = torch.where(changes, number, number[:1]).cummax(0).values
    return SparseSteps(dense.flatten(0, 1), last, scale)


def align(parts: Sequence[SparseSteps]) -> tuple[list[Tensor], Tensor]:
    """The values of several signals at the steps and images where any of them differs, ``[R, ...]`` each; their index.

    >>> one, other = torch.tensor([[0], [0], [1]]), torch.tensor([[0], [1], [1]])
    >>> first, second = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    >>> (x, y), index = align([SparseSteps(first, one), SparseSteps(second, other)])
    >>> x + y, index.flatten().tolist()
    (tensor([11., 21., 22.]), [0, 1, 2])
    """
    parts = [part.numbers for part in parts]
    indices = [part.index for part in parts]
    if all(index is indices[0] or torch.equal(index, indices[0]) for index in indices):
        return [part.values for part in parts], indices[0]
    number = torch.zeros_like(indices[0])
    for part in parts:  # combinations of rows, numbered anew after each part
        number = (number * len(part.values) + part.index).unique(return_inverse=True)[1]
    where = torch.empty(int(number.max()) + 1, dtype=torch.int64, device=number.device)
    where[number.flatten()] = torch.arange(number.numel(), device=number.device)  # one of those that hold it
    return [take(part.values, part.index.flatten()[where]) for part in parts], number
