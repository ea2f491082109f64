"""`qffs.functional.pool.max_pool` in C, of those levels that an image holds, without a copy of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qffs.functional.pool import windows
from qffs.functional.rows import Rows
from qffs.kernels import native
from qffs.kernels.layout import in_order, uncomputed
from qffs.kernels.queue import CPU, Kept, Pending, Queue


def available(signal: Rows | Pending) -> bool:
    """Whether there is a compiled function for such levels."""
    values = uncomputed(signal).values
    fits = values.dtype == torch.uint8 and values.device == CPU and values.dim() <= 4
    return fits and native.library_of_levels() is not None


def max_pool(
    queue: Queue, signal: Rows | Pending, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Pending:
    """The largest level of each window of one or two dimensions, computed when the queue is run.

    signal: ``[R, C, L]`` or ``[R, C, H, W]``; size, stride, padding: as in `qffs.functional.pool.max_pool`, and raises
    what it does.
    """
    rows, kept = uncomputed(signal), Kept()
    lengths = rows.values.shape[2:]
    pooled = [windows(*each) for each in zip(lengths, size, stride, padding, strict=True)]
    above = [1] * (2 - len(pooled))
    count, channels = rows.values.shape[:2]
    room = queue.room(count * channels * math.prod(pooled))
    largest = room[: count * channels * math.prod(pooled)].view(count, *pooled, channels)
    call = native.Pooling(
        kept.pointer(in_order(signal, lambda x: x.movedim(1, -1))),
        kept.pointer(rows.place.contiguous()),
        rows.place.numel(),
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
        torch.get_num_threads(),
        kept.pointer(torch.zeros(count, dtype=torch.uint8, device=CPU)),
        kept.pointer(largest),
    )
    library = native.library_of_levels()
    queue.add(lambda _: library.max_pool(call), kept)
    unfilled = Rows(largest.movedim(-1, 1), rows.place, rows.scale)
    return Pending(unfilled, unfilled.like, queue, room)
