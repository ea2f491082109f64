"""Layers of neurons that wait for each other, and are computed in one go when somebody looks at what one has sent.

What is between two layers costs little by itself, but ten times as much where a layer before it has just filled all
caches with its weights. So layers are only noted down at first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qffs.functional.rows import Rows
from qffs.kernels import native

CPU = torch.device("cpu")


class Queue:
    """Calls of the compiled function, in their order, and memory for levels, used again when nobody reads them."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], None], list[Tensor]]] = []
        self._free: list[Tensor] = []
        self._scratch = torch.empty(0, dtype=torch.int32, device=CPU)

    def add(self, call: Callable[[], None], kept: list[Tensor]) -> None:
        """Have something called after all that waits; kept: the tensors whose memory it names."""
        self._waiting.append((call, kept))

    def run(self) -> None:
        """Call what waits."""
        for call, _ in self._waiting:
            call()
        self._waiting.clear()

    def scratch(self, size: int) -> int:
        """Where there is room for so many numbers of 32 bits, for a single call."""
        if size > len(self._scratch):
            self._scratch = torch.empty(size, dtype=torch.int32, device=CPU)
        return self._scratch.data_ptr()

    def room(self, size: int) -> Tensor:
        """So many bytes of memory: the least that is free and holds them, or new."""
        fits = [each for each in self._free if len(each) >= size]
        if not fits:
            room = torch.empty(size, dtype=torch.uint8, device=CPU)
            library = native.library_of_levels()
            if library is not None:
                library.prefer_large_pages(room.data_ptr(), size)
            return room
        found = min(fits, key=len)
        self._free = [each for each in self._free if each is not found]
        return found

    def take_back(self, room: Tensor) -> None:
        """Memory that no layer reads but those that wait."""
        self._free.append(room)


@dataclass(eq=False)
class Levels:
    """Levels of a layer that waits in a queue: ``unfilled`` until then, in ``room``; like: as of `Rows`."""

    unfilled: Rows
    like: Tensor
    queue: Queue
    room: Tensor | None

    @property
    def size(self) -> torch.Size:
        """T and B."""
        return self.unfilled.size

    def rows(self) -> Rows:
        """The levels, computed; from now on their memory is theirs."""
        self.queue.run()
        self.room = None
        return self.unfilled

    def __del__(self) -> None:
        if self.room is not None:
            self.queue.take_back(self.room)
