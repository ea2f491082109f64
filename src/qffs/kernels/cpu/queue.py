"""Layers of neurons that wait for each other, and are computed in one go when somebody looks at what one has sent.

What is between two layers costs little by itself, but ten times as much where a layer before it has just filled all
caches with its weights. So layers are only noted down at first.
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
"""Bytes that calls which wait may keep from being freed, beside levels and weights."""


class Kept(list[Tensor]):
    """Tensors that a call is to find where they are, and how many bytes of them are kept for it alone."""

    held: int = 0

    def pointer(self, tensor: Tensor, alone: bool = False) -> int:
        """Where a tensor is, which stays there; alone: whether nobody else needs it."""
        self.append(tensor)
        self.held += tensor.nbytes if alone else 0
        return tensor.data_ptr()


class Queue:
    """Calls of compiled functions, in their order, and memory for levels, used again when nobody reads them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[Queue], None], Kept]] = []
        self._free: list[Tensor] = []
        self._scratch = torch.empty(0, dtype=torch.int32, device=CPU)

    def add(self, call: Callable[[Queue], None], kept: Kept) -> None:
        """Have something called with this queue, after all that waits; kept: the tensors whose memory it names."""
        self._waiting.append((call, kept))
        if sum(each.held for _, each in self._waiting) > MOST_HELD:
            self.run()

    def run(self) -> None:
        """Call what waits."""
        waiting, self._waiting = self._waiting, []
        for call, _ in waiting:
            call(self)

    def scratch(self, size: int) -> int:
        """Where there is room for so many numbers of 32 bits, for a single call."""
        if size > len(self._scratch):
            self._scratch = torch.empty(0, dtype=torch.int32, device=CPU)
            self._scratch = torch.empty(size, dtype=torch.int32, device=CPU)
        return self._scratch.data_ptr()

    def room(self, size: int) -> Tensor:
        """So many bytes of memory, or more: the least that is free and holds them, or new."""
        fits = [each for each in self._free if len(each) >= size]
        if fits:
            found = min(fits, key=len)
            self._free = [each for each in self._free if each is not found]
            return found
        if sum(map(len, self._free)) >= size:  # in pieces that are too small
            self.clear()
        room = torch.empty(size, dtype=torch.uint8, device=CPU)
        library = compiler.library_of_levels()
        if library is not None:
            library.prefer_large_pages(room.data_ptr(), size)
        return room

    def clear(self) -> None:
        """Call what waits, and let go of the memory that is free then."""
        self.run()
        self._free.clear()

    def take_back(self, room: Tensor) -> None:
        """Memory that no layer reads but those that wait."""
        self._free.append(room)


@dataclass(eq=False)
class Pending:
    """Levels that wait in a queue to be computed: ``unfilled`` until then, in ``room``; like: as of `SparseSteps`."""

    unfilled: SparseSteps
    empty_like: Tensor
    queue: Queue
    room: Tensor | None

    @property
    def size(self) -> torch.Size:
        """T and B."""
        return self.unfilled.size

    def rows(self) -> SparseSteps:
        """The levels, computed; from now on their memory is theirs."""
        self.queue.clear()
        self.room = None
        return self.unfilled

    def __del__(self) -> None:
        if self.room is not None:
            self.queue.take_back(self.room)
