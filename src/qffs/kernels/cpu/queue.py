"""A queue of layers of neurons, which are computed together when the levels of one of them are read.

The work of Python and PyTorch between two layers takes longer where the layer before has just filled all caches
with its weights. So layers are only noted down at first, and then computed one right after the other.
A small call computes with one thread: several would wait for each other longer than they compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import compiler

CPU = torch.device("cpu")
MOST_HELD = 2**23
"""The most bytes of tensors, beside levels and weights, that are kept for calls in the queue."""
SMALL = 2**20
"""Below this much work, as `threads` counts it, a call is small."""


def threads(work: int) -> int:
    """Return the number of threads of a call: 1 where it is small, else PyTorch's number. Results are the same.

    work: how many numbers the call reads or writes, or multiplies and adds for the levels of one forward pass.
    """
    return torch.get_num_threads() if work >= SMALL else 1


class Kept(list[Tensor]):
    """The tensors that a call points to, which must not be freed before it; held: bytes that it alone needs."""

    held: int = 0

    def pointer(self, tensor: Tensor, alone: bool = False) -> int:
        """Keep a tensor, and return its address; alone: whether only this call needs it."""
        self.append(tensor)
        self.held += tensor.nbytes if alone else 0
        return tensor.data_ptr()


class Queue:
    """Calls of compiled functions in their order, and the memory for levels, used again when nobody reads them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[Queue], None], Kept]] = []
        self._free: list[Tensor] = []
        self._scratch = torch.empty(0, dtype=torch.int32, device=CPU)

    def add(self, call: Callable[[Queue], None], kept: Kept) -> None:
        """Add a call, which gets this queue, after all others; kept: the tensors that it points to."""
        self._waiting.append((call, kept))
        if sum(each.held for _, each in self._waiting) > MOST_HELD:
            self.run()

    def run(self) -> None:
        """Make all calls."""
        waiting, self._waiting = self._waiting, []
        for call, _ in waiting:
            call(self)

    def scratch(self, size: int) -> int:
        """Return the address of memory for so many numbers of 32 bits, which a single call may use."""
        if size > len(self._scratch):
            self._scratch = torch.empty(0, dtype=torch.int32, device=CPU)
            self._scratch = torch.empty(size, dtype=torch.int32, device=CPU)
        return self._scratch.data_ptr()

    def room(self, size: int) -> Tensor:
        """Return memory of at least so many bytes: the smallest free piece that is large enough, or a new one."""
        fits = [each for each in self._free if len(each) >= size]
        if fits:
            smallest = min(fits, key=len)
            self._free = [each for each in self._free if each is not smallest]
            return smallest
        if sum(map(len, self._free)) >= size:  # in pieces that are too small
            self.clear()
        room = torch.empty(size, dtype=torch.uint8, device=CPU)
        library = compiler.library_of_levels()
        if library is not None:
            library.prefer_large_pages(room.data_ptr(), size)
        return room

    def clear(self) -> None:
        """Make all calls, and release the free memory."""
        self.run()
        self._free.clear()

    def take_back(self, room: Tensor) -> None:
        """Add to the free memory a piece that only layers in the queue still read."""
        self._free.append(room)


@dataclass(eq=False)
class Pending:
    """Levels that a queue will compute.

    unfilled: the levels, whose numbers are undefined before; empty_like: as of `SparseSteps`; room: their memory.
    """

    unfilled: SparseSteps
    empty_like: Tensor
    queue: Queue
    room: Tensor | None

    @property
    def size(self) -> torch.Size:
        """T and B."""
        return self.unfilled.size

    def rows(self) -> SparseSteps:
        """Compute the levels and return them; their memory is not used again."""
        self.queue.clear()
        self.room = None
        return self.unfilled

    def __del__(self) -> None:
        if self.room is not None:
            self.queue.take_back(self.room)
