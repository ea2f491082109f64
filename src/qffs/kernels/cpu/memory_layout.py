"""How neurons, and what leads to them, lie in memory for the compiled function: see native.py and fire.c."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler
from qffs.kernels.cpu.queue import Kept, Pending
from qffs.kernels.layer import Projection

REGISTER = 64
"""Bytes of numbers that are computed with at a time: a register of AVX-512, several of others."""
NEAR = 2**16
"""The most bytes that the weights of a block may take to be added where spikes arrive, without lists (scatter.h)."""
SLICE = 2**21
"""The most bytes that the weights of a block of neurons may take, to stay in a core's own cache."""


@dataclass(frozen=True)
class Layout:
    """How the neurons of an image lie in memory: their dimensions, ``order``, and what is compiled for."""

    empty_like: Tensor
    order: tuple[int, ...]
    height: int
    width: int
    channels: int

    @staticmethod
    def of(like: Tensor) -> Layout:
        """As they do, all in a row."""
        order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
        return Layout(like, tuple(order), 1, 1, math.prod(like.shape[1:]))

    @staticmethod
    def behind_synapses(like: Tensor) -> Layout:
        """Channels last."""
        order = (*range(2, like.dim()), 1)
        height, width = (1, 1, *(like.shape[d] for d in order[:-1]))[-2:]
        return Layout(like, order, height, width, like.shape[1])

    @property
    def shape(self) -> list[int]:
        """That of an image's neurons, in this order."""
        return [self.empty_like.shape[d] for d in self.order]

    def blocks(self, size: int) -> int:
        """How many blocks of so many channels, or fewer, are computed apart."""
        return self.height * self.width * math.ceil(self.channels / size)

    def laid_out(self, x: Tensor) -> Tensor:
        """The same in memory of this order."""
        return self.turned(x).contiguous()

    def constant(self, x: Tensor) -> tuple[Tensor, bool]:
        """`laid_out`, or ``[R, C]`` and true where the channels are all that it depends on, as a bias does."""
        turned = self.turned(x)
        places = zip(turned.stride()[1:-1], turned.shape[1:-1], strict=True)
        of_channels = turned.shape[-1] == self.channels and all(not stride or size == 1 for stride, size in places)
        while of_channels and turned.dim() > 2:
            turned = turned[:, 0]
        return turned.contiguous(), of_channels

    def given_back(self, levels: Tensor) -> Tensor:
        """``[R, ...]`` in the order of the dimensions."""
        return levels.permute(0, *(1 + self.order.index(d) for d in range(1, self.empty_like.dim())))

    def turned(self, x: Tensor) -> Tensor:
        """A view of ``[R, ...]`` of this shape, or broadcast to it, in this order."""
        return x.expand(-1, *self.empty_like.shape[1:]).permute(0, *self.order)


def block_size(channels: int, rows: Sequence[int], itemsize: int, digits: bool) -> int:
    """How many channels to take at a time: as many as registers hold and divide them, if their weights fit a cache.

    rows: of weights that lead to a channel, of each of the synapses; digits: whether these are two.
    """
    lanes = REGISTER // itemsize
    size = (2 if digits else itemsize) * max(rows, default=0)
    padded = math.ceil(channels / lanes) * lanes
    if not rows:
        return 4 * lanes
    return next((n for n in (8 * lanes, 4 * lanes, 2 * lanes) if padded % n == 0 and n * size <= SLICE), lanes)


def near(size: int) -> bool:
    """Whether the weights of a block of neurons, so many bytes, are few enough to be added where spikes arrive."""
    return size <= NEAR


def operand(signal: SparseSteps | Pending, layout: Layout, kept: Kept) -> ctypes.Structure:
    """A signal that neurons add up as it is."""
    rows = uncomputed(signal)
    return compiler.Input(
        values=kept.pointer(in_order(signal, layout.turned), alone=signal is rows),
        index=kept.pointer(rows.index.contiguous()),
        levels=rows.scale is not None,
        scale=1.0 if rows.scale is None else float(rows.scale),
    )


def source(projection: Projection, block: int, digits: bool, kept: Kept) -> ctypes.Structure:
    """Levels, and the weights that they go through, for blocks of so many neurons."""
    rows, synapses, steps = uncomputed(projection.source), projection.synapses, projection.size[0]
    values, kernel = in_order(projection.source, lambda x: x.movedim(1, -1)), synapses.kernel
    height, width, channels = (*[1] * (4 - values.dim()), *values.shape[1:])
    packed = synapses.packed(block, digits)
    assert rows.scale is not None
    return compiler.Synapses(
        values=kept.pointer(values),
        index=kept.pointer(rows.index.contiguous()),
        scale=float(rows.scale),
        height=height,
        width=width,
        channels=channels,
        kh=kernel.shape[2],
        kw=kernel.shape[3],
        sy=synapses.stride[0],
        sx=synapses.stride[1],
        py=synapses.padding[0],
        px=synapses.padding[1],
        weights=compiler.Weights(
            **{name: kept.pointer(each) for name, each in packed._asdict().items() if each is not None}
        ),
        moving=steps,
        scattered=not digits and near(kernel[0].numel() * block * kernel.itemsize),
    )


def uncomputed(signal: SparseSteps | Pending | Projection) -> SparseSteps:
    """A signal, or the source of it, whose numbers may not be there yet."""
    source = signal.source if isinstance(signal, Projection) else signal
    return source.unfilled if isinstance(source, Pending) else source


def in_order(signal: SparseSteps | Pending, turn: Callable[[Tensor], Tensor]) -> Tensor:
    """Values in memory of another order; where that is to copy them, they are computed before."""
    values = turn(uncomputed(signal).values)
    if isinstance(signal, Pending) and not values.is_contiguous():
        values = turn(signal.rows().values)
    return values.contiguous()
