"""Max pooling of levels and counting of spikes, computed by the C functions of max_pool.c."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qffs.functional.max_pool import windows
from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler
from qffs.kernels.cpu.memory_layout import in_order, uncomputed
from qffs.kernels.cpu.queue import CPU, Kept, Pending, Queue, threads


def available(signal: SparseSteps | Pending) -> bool:
    """Return whether there is a compiled function for such levels: bytes on a CPU."""
    values = uncomputed(signal).values
    fits = values.dtype == torch.uint8 and values.device == CPU and values.dim() <= 4
    return fits and compiler.library_of_levels() is not None


def max_pool(
    queue: Queue, signal: SparseSteps | Pending, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Pending:
    """Add a max pooling to the queue, and return the levels that it will give: those of `qffs.functional.max_pool`.

    signal: values ``[R, C, L]`` or ``[R, C, H, W]``, of which rows that no image holds are left out; size, stride,
    padding: as in `qffs.functional.max_pool.max_pool`. Raises what that raises.
    """
    rows, kept = uncomputed(signal), Kept()
    lengths = rows.values.shape[2:]
    pooled = [windows(*each) for each in zip(lengths, size, stride, padding, strict=True)]
    above = [1] * (2 - len(pooled))
    count, channels = rows.values.shape[:2]
    room = queue.room(count * channels * math.prod(pooled))
    largest = room[: count * channels * math.prod(pooled)].view(count, *pooled, channels)
    call = compiler.Pooling(
        kept.pointer(in_order(signal, lambda x: x.movedim(1, -1))),
        kept.pointer(rows.index.contiguous()),
        rows.index.numel(),
        count,
        *above,
        *lengths,
        channels,
        *above,
        *size,
        *above,
        *stride,
        *[0] * len(above),
        *padding,
        *above,
        *pooled,
        threads(rows.values.numel()),
        kept.pointer(torch.zeros(count, dtype=torch.uint8, device=CPU)),
        kept.pointer(largest),
    )
    library = compiler.library_of_levels()
    queue.add(lambda _: library.max_pool(call), kept)
    unfilled = SparseSteps(largest.movedim(-1, 1), rows.index, rows.scale)
    return Pending(unfilled, unfilled.empty_like, queue, room)


def count(levels: SparseSteps, compiled: bool = True) -> Tensor:
    """Return how many positive and negative spikes led to levels at each step, over all images, ``[2, T]``.

    compiled: whether the C function may be called, for levels that change by at most one per step.

    >>> count(SparseSteps(torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8), torch.tensor([[0], [1], [1]])))
    tensor([[1, 1, 0],
            [0, 1, 0]])
    """
    steps, images = levels.index.shape
    values = levels.values.contiguous(memory_format=_format(levels.values))
    library = (
        compiler.library_of_levels() if compiled and values.device == CPU and values.dtype == torch.uint8 else None
    )
    if library is not None:
        spikes = torch.empty(2, steps, dtype=torch.int64, device=CPU)
        size, index = math.prod(values.shape[1:]), levels.index.contiguous()
        at_once = threads(steps * images * size)
        library.count(values.data_ptr(), index.data_ptr(), steps, images, size, at_once, spikes.data_ptr())
        return spikes
    counts, before = [], torch.zeros_like(values[levels.index[0]], dtype=torch.int32)
    for step, rows in enumerate(levels.index):
        moved = rows != levels.index[step - 1] if step else torch.ones_like(rows, dtype=torch.bool)
        now = values[rows[moved]].int()
        risen = now - before[moved]
        before[moved] = now
        counts.append(torch.stack([(sign * risen).clamp_min(0).sum() for sign in (1, -1)]))
    return torch.stack(counts, 1)


def _format(values: Tensor) -> torch.memory_format:
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
