"""Files of a folder or a zip by their number, read from any thread and any process."""

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
"""What undoes each way of packing, by its number in a zip: stored, deflated, bzip2."""

_HEADER = 30  # bytes that stand before a file of a zip, without its name and its extra field; PKWARE, APPNOTE 4.3.7


@dataclass(frozen=True, eq=False)
class Files:
    """Files below ``path``, a folder or a zip.

    ``names``: UTF-8 [N], below the path. ``places``: of a zip, int64 [N, 4]: where each begins, how many bytes it
    takes, how it is packed (`UNPACK`), the CRC-32 of its content; of a folder None. Nothing is kept open and all is in
    arrays, so that processes can share a million of them.
    """

    path: Path
    names: NDArray[np.bytes_]
    places: Numbers | None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, numbers: Numbers | slice) -> Files:
        """Only the files of these numbers, in their order."""
        return Files(self.path, self.names[numbers], None if self.places is None else self.places[numbers])

    def label(self, number: int) -> str:
        """A file's name as messages give it, with the folder or zip that it lies in."""
        return f"{self._name(number)} in {self.path}"

    def read(self, number: int) -> bytes:
        """The content of a file; raises `DataError` where it cannot be read or its zip is damaged."""
        try:
            if self.places is None:
                return (self.path / self._name(number)).read_bytes()
            return _unpack(self.path, *self.places[number].tolist())
        # The reasons of the system have a number; what the readers of packed bytes raise has none.
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise DataError(f"{self.label(number)} cannot be read: {error.strerror}") from error
            raise DataError(f"{self.label(number)} cannot be unpacked: the zip file is damaged") from error

    def _name(self, number: int) -> str:
        return bytes(self.names[number]).decode("utf-8", "surrogateescape")


def encoded(names: list[str]) -> NDArray[np.bytes_]:
    """Names as `Files` keeps them: a tenth of the memory of strings, and never copied when a process forks."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)


def _unpack(path: Path, start: int, size: int, way: int, checksum: int) -> bytes:
    """The content of the file that begins at a byte of a zip."""
    with path.open("rb") as stream:
        stream.seek(start)
        name, extra = struct.unpack_from("<HH", stream.read(_HEADER), _HEADER - 4)
        stream.seek(name + extra, os.SEEK_CUR)
        content = UNPACK[way](stream.read(size))
    if zlib.crc32(content) != checksum:
        raise ValueError("the content has another checksum than the zip says")
    return content
