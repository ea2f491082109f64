"""How neurons and what leads to them lie in memory for the compiled function: see layer.c."""

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
"""Bytes of a vector in C: one register of AVX-512, or several smaller ones."""
NEAR = 2**16
"""The most bytes that the weights of a block may take to be added where spikes arrive, without lists (scatter.c)."""
SLICE = 2**21
"""The most bytes that the weights of a block of neurons may take, to stay in a core's own cache."""


@dataclass(frozen=True)
class Layout:
    """The order of the neurons of one image in memory, and the sizes of that order.

    empty_like: ``[0, ...]``, as the neurons; order: dimensions from the outermost to the innermost.
    height, width, channels: the sizes that the C function works with.
    """

    empty_like: Tensor
    order: tuple[int, ...]
    height: int
    width: int
    channels: int

    @staticmethod
    def of(like: Tensor) -> Layout:
        """Return the layout of neurons without synapses: the order that they have, as a single row of channels."""
        order = sorted(range(1, like.dim()), key=like.stride, reverse=True)
        return Layout(like, tuple(order), 1, 1, math.prod(like.shape[1:]))

    @staticmethod
    def behind_synapses(like: Tensor) -> Layout:
        """Return the layout of neurons behind synapses: channels last."""
        order = (*range(2, like.dim()), 1)
        height, width = (1, 1, *(like.shape[d] for d in order[:-1]))[-2:]
        return Layout(like, order, height, width, like.shape[1])

    @property
    def shape(self) -> list[int]:
        """Sizes of the neurons of one image, in this order."""
        return [self.empty_like.shape[d] for d in self.order]

    def blocks(self, size: int) -> int:
        """Return the number of blocks of at most ``size`` channels per image, which are computed one by one."""
        return self.height * self.width * math.ceil(self.channels / size)

    def laid_out(self, x: Tensor) -> Tensor:
        """Return a copy of ``[R, ...]`` that lies in this order, or the tensor itself where it already does."""
        return self.in_this_order(x).contiguous()

    def constant(self, x: Tensor) -> tuple[Tensor, bool]:
        """Return `laid_out` and False, or ``[R, C]`` and True where values depend on channels alone, as a bias does."""
        ordered = self.in_this_order(x)
        places = zip(ordered.stride()[1:-1], ordered.shape[1:-1], strict=True)
        of_channels = ordered.shape[-1] == self.channels and all(not stride or size == 1 for stride, size in places)
        while of_channels and ordered.dim() > 2:
            ordered = ordered[:, 0]
        return ordered.contiguous(), of_channels

    def to_network_order(self, levels: Tensor) -> Tensor:
        """Return levels in this order as a view ``[R, ...]`` in the order of the network's dimensions."""
        return levels.permute(0, *(1 + self.order.index(d) for d in range(1, self.empty_like.dim())))

    def in_this_order(self, x: Tensor) -> Tensor:
        """Return a view of ``[R, ...]``, broadcast to the shape of the neurons, in this order."""
        return x.expand(-1, *self.empty_like.shape[1:]).permute(0, *self.order)


def block_size(channels: int, rows: Sequence[int], itemsize: int, digits: bool) -> int:
    """Return how many channels form a block: the most vectors that divide them and whose weights fit a cache.

    rows: for each of the synapses, how many weights lead to one neuron; digits: whether weights are two digits.
    """
    lanes = REGISTER // itemsize
    size = (2 if digits else itemsize) * max(rows, default=0)
    padded = math.ceil(channels / lanes) * lanes
    if not rows:
        return 4 * lanes
    return next((n for n in (8 * lanes, 4 * lanes, 2 * lanes) if padded % n == 0 and n * size <= SLICE), lanes)


def near(size: int) -> bool:
    """Return whether weights of so many bytes, those of a block, are few enough to be added where spikes arrive."""
    return size <= NEAR


def operand(signal: SparseSteps | Pending, layout: Layout, kept: Kept) -> ctypes.Structure:
    """Return the C structure of a signal that neurons add up as it is; kept: takes the tensors that it points to."""
    rows = uncomputed(signal)
    return compiler.Input(
        values=kept.pointer(in_order(signal, layout.in_this_order), alone=signal is rows),
        index=kept.pointer(rows.index.contiguous()),
        levels=rows.scale is not None,
        scale=1.0 if rows.scale is None else float(rows.scale),
    )


def source(projection: Projection, block: int, digits: bool, kept: Kept) -> ctypes.Structure:
    """Return the C structure of levels and of the weights that they go through, for blocks of so many neurons."""
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
    """Return a signal, or the source of a projection, as `SparseSteps` whose numbers may not be computed yet."""
    source = signal.source if isinstance(signal, Projection) else signal
    return source.unfilled if isinstance(source, Pending) else source


def in_order(signal: SparseSteps | Pending, turn: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the values of a signal in memory of another order; where they must be copied, they are computed before."""
    values = turn(uncomputed(signal).values)
    if isinstance(signal, Pending) and not values.is_contiguous():
        values = turn(signal.rows().values)
    return values.contiguous()
