"""The files of a folder or a zip by their index, which any thread and any process can read."""

from __future__ import annotations

import bz2
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qffs.errors import DataError

Numbers = NDArray[np.int64]

UNPACK: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    8: lambda packed: zlib.decompress(packed, wbits=-zlib.MAX_WBITS),
    12: bz2.decompress,
}
"""The functions that decompress, by the number of the method in a zip: stored, deflated, bzip2."""

_HEADER = 30  # bytes that stand before a file of a zip, without its name and its extra field; PKWARE, APPNOTE 4.3.7


@dataclass(frozen=True, eq=False)
class Files:
    """N files in a folder or a zip.

    path: the folder or zip. names: the names relative to the path, UTF-8 [N]. places: for a zip, int64 [N, 4]: for each
    file its first byte, its size in bytes, its compression method (`UNPACK`), and the CRC-32 of its content; None for a
    folder. No file is kept open, and all values are in arrays, so processes can share a million entries.
    """

    path: Path
    names: NDArray[np.bytes_]
    places: Numbers | None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, numbers: Numbers | slice) -> Files:
        """Return the files with these indices, in this order."""
        return Files(self.path, self.names[numbers], None if self.places is None else self.places[numbers])

    def label(self, number: int) -> str:
        """Return the name of a file for messages, with the folder or zip that contains it."""
        return f"{self._name(number)} in {self.path}"

    def read(self, number: int) -> bytes:
        """Return the content of a file; raise `DataError` if it cannot be read or its zip is damaged."""
        try:
            if self.places is None:
                return (self.path / self._name(number)).read_bytes()
            return _unpack(self.path, *self.places[number].tolist())
        # Errors of the operating system have a number; those of the decompressors have none.
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise DataError(f"{self.label(number)} cannot be read: {error.strerror}") from error
            raise DataError(f"{self.label(number)} cannot be unpacked: the zip file is damaged") from error

    def _name(self, number: int) -> str:
        return bytes(self.names[number]).decode("utf-8", "surrogateescape")


def encoded(names: list[str]) -> NDArray[np.bytes_]:
    """Return names as an array for `Files`: a tenth of the memory of strings, and no copies when a process forks."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)


def _unpack(path: Path, start: int, size: int, method: int, checksum: int) -> bytes:
    """Return the content of the file whose header begins at byte ``start`` of a zip."""
    with path.open("rb") as stream:
        stream.seek(start)
        name, extra = struct.unpack_from("<HH", stream.read(_HEADER), _HEADER - 4)
        stream.seek(name + extra, os.SEEK_CUR)
        content = UNPACK[method](stream.read(size))
    if zlib.crc32(content) != checksum:
        raise ValueError("the content has another checksum than the zip says")
    return content
