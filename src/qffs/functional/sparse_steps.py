"""Values over time, stored once for as many steps as they stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseSteps:
    """The accumulated values of B images after each of T steps; a value that stays the same is stored once.

    ``values``: ``[R, ...]``; ``index``: int64 ``[T, B]``, so that image b holds ``values[index[t, b]]`` after step t;
    ``scale``: the threshold, where the values are levels (whole numbers of thresholds), else None. Values to which no
    index points may be uninitialized memory: `used` leaves them out.

    >>> rows = SparseSteps(torch.tensor([[1.0], [5.0]]), torch.tensor([[0, 0], [0, 1]]))
    >>> rows.dense().flatten()
    tensor([1., 1., 1., 5.])
    """

    values: Tensor
    index: Tensor
    scale: Tensor | None = None

    @staticmethod
    def of(dense: Tensor, steps: int) -> SparseSteps:
        """Return every row of ``[T * B, ...]`` as a value of its own, also where rows repeat."""
        return SparseSteps(dense, torch.arange(len(dense), device=dense.device).view(steps, -1))

    @property
    def numbers(self) -> SparseSteps:
        """The values without a scale: levels are multiplied by the threshold, in the type of the threshold."""
        if self.scale is None:
            return self
        used = self.used()
        return SparseSteps(self._scaled(used.values), used.index)

    def used(self) -> SparseSteps:
        """Return the same signal without the values to which no index points."""
        rows, index = self.index.unique(return_inverse=True)
        return self if len(rows) == len(self.values) else SparseSteps(take(self.values, rows), index, self.scale)

    @property
    def size(self) -> torch.Size:
        """The number of steps T and of images B."""
        return self.index.shape

    @property
    def empty_like(self) -> Tensor:
        """An empty tensor ``[0, ...]`` of the type and the other dimensions of `numbers`."""
        empty = self.values[:0]
        return empty if self.scale is None else empty.to(self.scale.dtype)

    def _scaled(self, values: Tensor) -> Tensor:
        return values if self.scale is None else values.to(self.scale.dtype).mul_(self.scale)

    def dense(self) -> Tensor:
        """Return the values of all steps times their scale: ``[T * B, ...]``, images of the first step first."""
        return self._scaled(take(self.values, self.index.flatten()))


def take(values: Tensor, numbers: Tensor) -> Tensor:
    """Return the rows with these numbers, in the memory order of ``values`` (such as channels last)."""
    order = [0, *sorted(range(1, values.dim()), key=values.stride, reverse=True)]
    rows = values.permute(order).index_select(0, numbers)
    return rows.permute(sorted(range(len(order)), key=order.__getitem__))


def changed(dense: Tensor, changes: Tensor, scale: Tensor | None = None) -> SparseSteps:
    """Return ``[T, B, ...]`` as `SparseSteps` that change where ``changes`` ``[T, B]`` is true, and at the first step.

    The values at other steps and images are not read: there, the last value before them stays.

    >>> levels = torch.tensor([[[0]], [[2]], [[2]]], dtype=torch.uint8)
    >>> rows = changed(levels, torch.tensor([[False], [True], [False]]))
    >>> rows.values.flatten().tolist(), rows.index.flatten().tolist()
    ([0, 2, 2], [0, 1, 1])
    """
    number = torch.arange(changes.numel(), device=changes.device).view(changes.shape)
    # Numbers grow along time, so the largest number so far is the last change before each step.
    last = torch.where(changes, number, number[:1]).cummax(0).values
    return SparseSteps(dense.flatten(0, 1), last, scale)


def align(parts: Sequence[SparseSteps]) -> tuple[list[Tensor], Tensor]:
    """Return the values of several signals, ``[R, ...]`` each, and the index ``[T, B]`` that they then share.

    Row ``index[t, b]`` of each result is the value of that signal in image b after step t.

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
    where[number.flatten()] = torch.arange(number.numel(), device=number.device)  # any one place of each row
    return [take(part.values, part.index.flatten()[where]) for part in parts], number
