"""Named files, whether they lie in a zip or in a folder."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qffs.errors import DataError

PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class Archive:
    """What lies under the train, test and val folders of a zip or folder.

    ``prefix``: the common folder around the parts, such as ``"cats/"``, or empty. ``names``: files, and
    folders with a ``/`` at the end, with forward slashes, below the prefix, without hidden ones.
    ``read``: the bytes of a file by such a name; raises `DataError`. Safe to call from several threads.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def label(self, name: str) -> str:
        """Return a name as messages give it, with the zip or folder that it lies in."""
        return f"{self.prefix}{name} in {self.path}"


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Give the archive at a path that exists, open until the block ends.

    Raises `DataError` on a file that is not a whole, unencrypted zip, and on a folder that cannot be listed.
    """
    if path.is_dir():
        yield _folder(path)
        return
    try:
        opened = zipfile.ZipFile(path)
    # A damaged zip is not always a BadZipFile: one that claims a newer version is a NotImplementedError.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(_not_a_zip(path)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    with opened:
        yield _zip(path, opened)


def _zip(path: Path, opened: zipfile.ZipFile) -> Archive:
    """Return an archive over an open zip; raises `DataError` on an encrypted one."""
    if any(info.flag_bits & 1 for info in opened.infolist()):
        raise DataError(f"{path} is an encrypted zip file: unpack it and give the folder")
    # A zip may name a file twice (the last one counts): a dictionary, because it keeps the order.
    names = [name for name in dict.fromkeys(opened.namelist()) if _visible(name)]
    prefix = _prefix(name.split("/")[0] for name in names if "/" in name)

    def read(name: str) -> bytes:
        try:
            return opened.read(prefix + name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise DataError(f"{prefix}{name} in {path} cannot be unpacked: the zip file is damaged") from error

    return Archive(path, prefix, tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix)), read)


def _folder(path: Path) -> Archive:
    """Return an archive over a folder; only its parts are listed, for a home folder may hold far more."""
    try:
        prefix = _prefix(child.name for child in path.iterdir() if _visible(child.name) and child.is_dir())
        names = [name for part in PARTS for name in _walk(path / prefix, part)]
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be listed: {error.strerror}") from error

    def read(name: str) -> bytes:
        try:
            return (path / prefix / name).read_bytes()
        except OSError as error:
            raise DataError(f"{prefix}{name} in {path} cannot be read: {error.strerror}") from error

    return Archive(path, prefix, tuple(names), read)


def _walk(root: Path, part: str) -> Iterator[str]:
    """Give all names under one part of a folder, if it has that part; raises OSError on what cannot be listed."""

    def refuse(error: OSError) -> None:
        raise error

    if not (root / part).is_dir():
        return
    for where, folders, files in os.walk(root / part, onerror=refuse, followlinks=True):
        folders[:] = filter(_visible, folders)
        folder = Path(where).relative_to(root).as_posix() + "/"
        yield folder
        yield from (folder + name for name in files if _visible(name))


def _visible(name: str) -> bool:
    """Whether no piece of a name is hidden or one of the entries that macOS adds to a zip."""
    # Some programs begin every name in a zip with "./"; that is taken for the common folder.
    return not any((piece.startswith(".") and piece != ".") or piece == "__MACOSX" for piece in name.split("/"))


def _prefix(tops: Iterable[str]) -> str:
    """Return the one top folder around the parts, with a ``/``, or nothing if the parts are at the top."""
    found = set(tops)
    return f"{found.pop()}/" if len(found) == 1 and not found & set(PARTS) else ""


def _not_a_zip(path: Path) -> str:
    """Say what is wrong with a file that zipfile refuses."""
    try:
        with path.open("rb") as stream:
            begun = stream.read(4) == b"PK\x03\x04"
    except OSError:
        begun = False
    if begun:
        return f"{path} begins as a zip file but its end is missing or damaged: copy or download it again"
    return f"{path} is neither a folder nor a zip file (unpack other archives first and give the folder)"
