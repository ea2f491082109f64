"""The files of a folder or a zip by their index, which any thread and any process can read."""

from __future__ import annotations

import bz2
import hashlib
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

UNPACK: dict[int, Callable[[bytes, int], bytes]] = {
    0: lambda packed, limit: packed[:limit],
    8: lambda packed, limit: zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit),
    12: lambda packed, limit: bz2.BZ2Decompressor().decompress(packed, limit),
}
"""The functions that decompress up to a number of bytes, by the number of the method in a zip: stored, deflated, bzip2.

A file in a zip can be a thousand times as large as in its zip, and the zip's list can say a wrong size."""

LARGEST = 128 * 2**20
"""The size in bytes of the largest file that is read: 128 MiB, several times that of a large photograph."""

SAMPLES = 1000
"""The number of files whose content is part of `Files.digest`: reading all of ImageNet would take hours."""

ENCODING = ("utf-8", "surrogateescape")
"""The encoding of names, also of those that are no UTF-8."""

_HEADER = 30  # bytes that stand before a file of a zip, without its name and its extra field; PKWARE, APPNOTE 4.3.7


@dataclass(frozen=True, eq=False)
class Files:
    """N files in a folder or a zip.

    path: the folder or zip. names: the names relative to the path, UTF-8 [N]. places: for a zip, int64 [N, 5]: for each
    file its first byte, its size in the zip, its compression method (`UNPACK`), and the CRC-32 and the size of its
    content; None for a folder. No file is kept open, and all values are in arrays, so processes can share a million
    entries.
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
        """Return the content of a file; raise `DataError` if it is too large or unreadable, or its zip is damaged."""
        try:
            check_size(self.label(number), self._size(number))
            if self.places is None:
                return (self.path / self._name(number)).read_bytes()
            return _unpack(self.path, *self.places[number].tolist())
        # Errors of the operating system have a number; those of the decompressors have none.
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise DataError(f"{self.label(number)} cannot be read: {error.strerror}") from error
            raise DataError(f"{self.label(number)} cannot be unpacked: the zip file is damaged") from error

    def digest(self) -> str:
        """Return a hash of the names and sizes of all files, and of the content of `SAMPLES` of them, evenly spread.

        It does not depend on the folders of the files, and is the same if a zip is unpacked.
        """
        digest = hashlib.sha256()
        try:
            for number in range(len(self)):
                digest.update(f"{self._name(number).split('/')[-1]}\0{self._size(number)}\0".encode(*ENCODING))
        except OSError as error:
            raise DataError(f"{self.label(number)} cannot be read: {error.strerror}") from error
        for number in np.unique(np.linspace(0, len(self) - 1, min(len(self), SAMPLES)).astype(int)).tolist():
            digest.update(b"%d\0" % (zlib.crc32(self.read(number)) if self.places is None else self.places[number, 3]))
        return digest.hexdigest()

    def _size(self, number: int) -> int:
        """Return the size of the content of a file in bytes."""
        return os.stat(self.path / self._name(number)).st_size if self.places is None else int(self.places[number, 4])

    def _name(self, number: int) -> str:
        return bytes(self.names[number]).decode(*ENCODING)


def encoded(names: list[str]) -> NDArray[np.bytes_]:
    """Return names as an array for `Files`: a tenth of the memory of strings, and no copies when a process forks."""
    return np.array([name.encode(*ENCODING) for name in names], np.bytes_)


def check_size(label: str, size: int) -> None:
    """Raise `DataError` if a file is larger than `LARGEST`; label: its name, size: its bytes."""
    if size > LARGEST:
        raise DataError(
            f"{label} has {size / 2**20:,.0f} MiB, but a file of at most {LARGEST / 2**20:.0f} MiB is read: "
            "remove it, or save the image in a smaller size"
        )


def _unpack(path: Path, start: int, packed: int, method: int, checksum: int, size: int) -> bytes:
    """Return the content, of ``size`` bytes, of the file whose header begins at byte ``start`` of a zip."""
    with path.open("rb") as stream:
        stream.seek(start)
        name, extra = struct.unpack_from("<HH", stream.read(_HEADER), _HEADER - 4)
        stream.seek(name + extra, os.SEEK_CUR)
        content = UNPACK[method](stream.read(packed), size + 1)
    if len(content) != size or zlib.crc32(content) != checksum:
        raise ValueError("the content has another size or checksum than the zip says")
    return content
