"""Texts of an HDF5 file, read by bytes: for damaged ones, the library of HDF5 can take any memory, or never return.

An array of texts holds, for each text, its length and its place: the address of a heap, and an index in it. A heap is
a head and a list of objects, each with its index and size (HDF5 File Format Specification, Version 3.0, III.E).
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from qffs.errors import CheckpointError

PLACE = struct.Struct("<IQI")
HEAD, OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HHIQ")
MAGIC, VERSION, ALIGNED = b"GCOL", 1, 8


class Texts:
    """The texts of an open file; stream: the same file, as bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.size = stream, stream.seek(0, 2)
        self.left = self.size  # of all heaps together: they do not overlap
        self.heaps: dict[int, dict[int, bytes]] = {}

    def of(self, dataset: Any, most_bytes: int) -> list[str]:
        """Return the texts of an array in its order; raise `CheckpointError` on more than ``most_bytes`` of them."""
        offset, size = dataset.id.get_offset(), dataset.id.get_storage_size()
        if offset is None or size != PLACE.size * dataset.size:
            raise CheckpointError(f"{dataset.name} holds texts in another form than NIR writes")
        places = list(PLACE.iter_unpack(self._bytes(offset, size)))
        needed = sum(length for length, _, _ in places)  # many may have one place
        if needed > most_bytes:
            raise CheckpointError(
                f"{dataset.name} would need {needed:,} bytes, where this file can hold {most_bytes:,}"
            )
        return [self._text(*place) for place in places]

    def _text(self, length: int, address: int, index: int) -> str:
        if address not in self.heaps:
            self.heaps[address] = self._heap(address)
        content = self.heaps[address].get(index)
        if content is None or length > len(content):
            raise CheckpointError("a text is missing in the file")
        return content[:length].rstrip(b"\0").decode("utf-8")

    def _heap(self, address: int) -> dict[int, bytes]:
        """Return the objects of a heap by their indices."""
        magic, version, size = HEAD.unpack(self._bytes(address, HEAD.size))
        self.left -= size
        if (magic, version) != (MAGIC, VERSION) or size < HEAD.size or self.left < 0:
            raise CheckpointError("the texts of the file are damaged")
        content, objects, start = self._bytes(address, size), dict[int, bytes](), HEAD.size
        while start + OBJECT.size <= size:
            index, _, _, length = OBJECT.unpack_from(content, start)
            if not index:  # the free space at the end
                break
            start += OBJECT.size
            objects[index] = content[start : start + length]
            start += -(-length // ALIGNED) * ALIGNED
        return objects

    def _bytes(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; raise `CheckpointError` where it has fewer."""
        if offset + size > self.size:
            raise CheckpointError("the file is cut off, or holds the place of a text that it does not have")
        self.stream.seek(offset)
        return self.stream.read(size)
