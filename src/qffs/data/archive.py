"""What a zip or a folder of images holds."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qffs.data.files import UNPACK, Files, encoded
from qffs.errors import DataError

PARTS = ("train", "test", "val")

_INSIDE = ("ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/")
"""The folders around the parts in ImageNet's own archive, seen from each of the folders above them."""


@dataclass(frozen=True)
class Archive:
    """What lies under the train, test and val folders of a zip or folder.

    ``prefix``: the folders around the parts, such as ``"cats/"``, or empty. ``names``: files, and folders with a
    ``/`` at the end, with forward slashes, below the prefix, without hidden ones. ``entries``: all entries of a zip by
    their whole name; None of a folder.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]
    entries: Mapping[str, zipfile.ZipInfo] | None

    def label(self, name: str) -> str:
        """Return a name as messages give it, with the zip or folder that it lies in."""
        return f"{self.prefix}{name} in {self.path}"

    def files(self, names: Sequence[str]) -> Files:
        """The files of these names, in this order; raises `DataError` where one is packed in a way not known."""
        whole = [self.prefix + name for name in names]
        if self.entries is None:
            return Files(self.path, encoded(whole), None)
        entries = [self.entries[name] for name in whole]
        for name, entry in zip(names, entries, strict=True):
            if entry.compress_type not in UNPACK:
                raise DataError(f"{self.label(name)} is packed in an unusual way: unpack the zip and give the folder")
        places = [(e.header_offset, e.compress_size, e.compress_type, e.CRC) for e in entries]
        return Files(self.path, encoded(whole), np.array(places, np.int64).reshape(-1, 4))

    def beside(self, name: str) -> bytes | None:
        """The content of a file of this name beside the parts or in one of three folders above, None where none is."""
        if self.entries is None:
            around = (self.path / self.prefix).absolute()
            found = next((path for folder in [around, *around.parents][:4] if (path := folder / name).is_file()), None)
            return None if found is None else Files(found.parent, encoded([name]), None).read(0)
        folders = self.prefix.split("/")[:-1]
        above = ["".join(f"{folder}/" for folder in folders[:count]) for count in range(len(folders), -1, -1)]
        inside = next((folder for folder in above if folder + name in self.entries), None)
        return None if inside is None else Archive(self.path, inside, (), self.entries).files([name]).read(0)


def open_archive(path: Path) -> Archive:
    """Return the archive at a path that exists.

    Raises `DataError` on a file that is not a whole, unencrypted zip, and on a folder that cannot be listed.
    """
    if path.is_dir():
        return _folder(path)
    try:
        with zipfile.ZipFile(path) as opened:
            return _zip(path, opened)
    # A damaged zip is not always a BadZipFile: one that claims a newer version is a NotImplementedError.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(_not_a_zip(path)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _zip(path: Path, opened: zipfile.ZipFile) -> Archive:
    """Return what an open zip holds; raises `DataError` on an encrypted one."""
    if any(info.flag_bits & 1 for info in opened.infolist()):
        raise DataError(f"{path} is an encrypted zip file: unpack it and give the folder")
    # A zip may name a file twice (the last one counts): a dictionary, because it keeps the order.
    entries = {info.filename: info for info in opened.infolist()}
    names = [name for name in entries if _visible(name)]
    tops = {name.split("/")[0] for name in names if "/" in name}
    prefix = _prefix(tops, lambda folder: any(name.startswith(folder) for name in names))
    return Archive(path, prefix, tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix)), entries)


def _folder(path: Path) -> Archive:
    """Return what a folder holds; only its parts are listed, for a home folder may hold far more."""
    try:
        tops = {child.name for child in path.iterdir() if _visible(child.name) and child.is_dir()}
        prefix = _prefix(tops, lambda folder: (path / folder).is_dir())
        names = [name for part in PARTS for name in _walk(path / prefix, part)]
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be listed: {error.strerror}") from error
    return Archive(path, prefix, tuple(names), None)


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


def _prefix(tops: Iterable[str], has: Callable[[str], bool]) -> str:
    """Return the folders around the parts: none, those of ImageNet's archive, or the only one at the top."""
    found = set(tops)
    if found & set(PARTS):
        return ""
    inside = next(filter(has, _INSIDE), None)
    return inside or (f"{found.pop()}/" if len(found) == 1 else "")


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
