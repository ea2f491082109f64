"""The files in a zip or a folder of images."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from qffs.data.files import UNPACK, Files, check_size, encoded
from qffs.errors import DataError

PARTS = ("train", "test", "val")

_Key = tuple[int, int]

_INSIDE = ("ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/")
"""The folders around the parts in ImageNet's own archive, relative to each of the folders above the parts."""


UNPACKED, RATIO = 2**30, 100
"""The size in bytes up to which every zip is read, and how many times its own size a larger one may unpack to.

Photographs are compressed already, so that a zip does not make them smaller."""

LINK, ABOVE = "a link to a folder that is read already", "a link to a folder above images"
AGAIN, NOWHERE, NO_FILE = "a link to a file that is read already", "a link to nothing", "no regular file"
FOLDER = "a folder beside images without labels"
"""The reasons to leave a name out."""


_NEITHER = "{} is neither a folder nor a zip file (unpack other archives first and give the folder)"


@dataclass(frozen=True)
class Archive:
    """The files in the train, test and val folders of a zip or folder, or those of a folder without these.

    path: the zip or folder. prefix: the folders around the parts, such as ``"cats/"``, or empty. names: the files, and
    the folders with a ``/`` at the end, relative to the prefix, with forward slashes, without hidden ones. entries: all
    entries of a zip by their whole name; None for a folder. left_out: names that are no files, or are links to what is
    read under another name, each with this reason.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]
    entries: Mapping[str, zipfile.ZipInfo] | None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def label(self, name: str) -> str:
        """Return the name of a file for messages, with the zip or folder that contains it."""
        return f"{self.prefix}{name} in {self.path}"

    def files(self, names: Sequence[str]) -> Files:
        """Return the files with these names, in this order.

        Raises `DataError` if a zip has packed one with an unknown method, or if files of a zip are too large: one of
        them, or all together.
        """
        whole = [self.prefix + name for name in names]
        if self.entries is None:
            return Files(self.path, encoded(whole), None)
        entries = [self.entries[name] for name in whole]
        for name, entry in zip(names, entries, strict=True):
            if entry.compress_type not in UNPACK:
                raise DataError(f"{self.label(name)} is packed in an unusual way: unpack the zip and give the folder")
            check_size(self.label(name), max(entry.file_size, entry.compress_size))
        self._check_total(sum(entry.file_size for entry in entries))
        places = [(e.header_offset, e.compress_size, e.compress_type, e.CRC, e.file_size) for e in entries]
        return Files(self.path, encoded(whole), np.array(places, np.int64).reshape(-1, 5))

    def _check_total(self, size: int) -> None:
        """Raise `DataError` if the files of a zip have together ``size`` bytes, and are no images for this reason."""
        limit = max(UNPACKED, RATIO * self.path.stat().st_size)
        if size > limit:
            raise DataError(
                f"{self.path} unpacks to {size / 2**30:,.1f} GiB, but at most {limit / 2**30:,.1f} GiB are read from "
                f"it ({UNPACKED // 2**30} GiB, or {RATIO} times its size): unpack it and give the folder"
            )

    def beside(self, name: str) -> bytes | None:
        """Return the content of a file beside the parts or in one of the three folders above; None if it is absent."""
        if self.entries is None:
            start = (self.path / self.prefix).absolute()
            first = next((path for folder in [start, *start.parents][:4] if (path := folder / name).is_file()), None)
            return None if first is None else Files(first.parent, encoded([name]), None).read(0)
        folders = self.prefix.split("/")[:-1]
        above = ["".join(f"{folder}/" for folder in folders[:count]) for count in range(len(folders), -1, -1)]
        match = next((folder for folder in above if folder + name in self.entries), None)
        return None if match is None else Archive(self.path, match, (), self.entries).files([name]).read(0)


def open_archive(path: Path) -> Archive:
    """Return the archive at a path that exists.

    Raises `DataError` on a file that is not a whole, unencrypted zip, and on a folder that cannot be listed.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():  # opening a pipe would wait forever
        raise DataError(_NEITHER.format(path))
    try:
        with zipfile.ZipFile(path) as opened:
            return _zip(path, opened)
    # A damaged zip is not always a BadZipFile: one that claims a newer version is a NotImplementedError.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise DataError(_not_a_zip(path)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _zip(path: Path, opened: zipfile.ZipFile) -> Archive:
    """Return the archive of an open zip; raise `DataError` if it is encrypted."""
    if any(info.flag_bits & 1 for info in opened.infolist()):
        raise DataError(f"{path} is an encrypted zip file: unpack it and give the folder")
    # A zip may name a file twice (the last one counts): a dictionary, because it keeps the order.
    entries = {info.filename: info for info in opened.infolist()}
    names = [name for name in entries if _visible(name)]
    tops = {name.split("/")[0] for name in names if "/" in name}
    prefix = _prefix(tops, lambda folder: any(name.startswith(folder) for name in names))
    inside = [name for name in names if name.startswith(prefix)]
    files = tuple(name.removeprefix(prefix) for name in inside if not _special(entries[name]))
    left_out = {name.removeprefix(prefix): NO_FILE for name in inside if _special(entries[name])}
    return Archive(path, prefix, files, entries, left_out)


def _special(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry of a zip is a link or a device; zips from Windows do not say it."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return kind not in {0, stat.S_IFREG, stat.S_IFDIR}


def _folder(path: Path) -> Archive:
    """Return the archive of a folder; only its parts are listed, because other folders in it may be large.

    Without parts these are the files that lie in it.
    """
    try:
        children = [child for child in path.iterdir() if _visible(child.name)]
        tops = {child.name for child in children if child.is_dir()}
        prefix = _prefix(tops, lambda folder: (path / folder).is_dir())
        names = dict(_walk(path / prefix))
        if not names:
            prefix, names = "", {child.name: _plain(child) for child in children}
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be listed: {error.strerror}") from error
    files = tuple(name for name, reason in names.items() if reason is None)
    return Archive(path, prefix, files, None, {name: reason for name, reason in names.items() if reason is not None})


def _walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """Yield all names under the parts of a folder, each with the reason to leave it out, or None.

    The folders of all parts are listed before a link is followed, and a link is followed only to a folder that is not
    listed and holds no listed one. So each image is read once, under one label and in one part, and links that lead
    back up come to an end. Raises OSError if a folder cannot be listed.
    """
    seen = dict.fromkeys(map(_key, [root, *root.resolve().parents]), ABOVE)
    parts, linked_files = [part for part in PARTS if (root / part).is_dir()], list[str]()
    links = deque(part for part in parts if (root / part).is_symlink())
    folders = deque(part for part in parts if part not in links)
    while folders or links:
        linked = not folders
        folder = (folders or links).popleft()
        key = _key(root / folder)
        if key in seen:
            yield folder, seen[key]
            continue
        if linked:
            for above in map(_key, (root / folder).resolve().parents):
                seen.setdefault(above, ABOVE)
        seen[key] = LINK
        yield f"{folder}/", None
        with os.scandir(root / folder) as entries:
            # By name, so that of two links to one folder every file system follows the same.
            for entry in sorted(filter(lambda entry: _visible(entry.name), entries), key=lambda entry: entry.name):
                name, link = f"{folder}/{entry.name}", entry.is_symlink()
                if os.path.isdir(entry) if link else entry.is_dir():  # the second asks the system nothing
                    (links if link else folders).append(name)
                elif link and os.path.isfile(entry):
                    linked_files.append(name)
                else:
                    yield name, _reason(entry, link)
    yield from _linked(root, linked_files, {key for key, reason in seen.items() if reason == LINK})


def _plain(child: Path) -> str | None:
    """Return the reason to leave a name out of a folder without parts; None for a file."""
    return None if child.is_file() else FOLDER if child.is_dir() else NO_FILE


def _linked(root: Path, names: Iterable[str], listed: Container[_Key]) -> Iterator[tuple[str, str | None]]:
    """Yield the names of links to files, each with the reason to leave it out, or None; listed: the folders' keys."""
    real, is_listed = cache(os.path.realpath), cache(lambda folder: _key(folder) in listed)  # many are in one folder
    read: set[str] = set()
    for name in sorted(names):
        target = f"{root}/{name}"
        while os.path.islink(target):
            folder, last = os.path.split(os.path.join(os.path.dirname(target), os.readlink(target)))
            target = os.path.join(real(folder), last)
        folder, last = os.path.split(target)
        yield name, AGAIN if target in read or (_visible(last) and is_listed(folder)) else None
        read.add(target)


def _key(path: str | Path) -> _Key:
    """Return the numbers by which a file system knows a folder under all its names."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _reason(entry: os.DirEntry[str], link: bool) -> str | None:
    """Return the reason to leave an entry of a folder out that is no folder and no link to a file; None for a file."""
    if not link:
        return None if entry.is_file() else NO_FILE
    return NO_FILE if os.path.exists(entry) else NOWHERE


def _visible(name: str) -> bool:
    """Return whether no piece of a name is hidden or is an entry that macOS adds to a zip."""
    # Some programs begin every name in a zip with "./": this piece counts as the common folder.
    return not any((piece.startswith(".") and piece != ".") or piece == "__MACOSX" for piece in name.split("/"))


def _prefix(tops: Iterable[str], has: Callable[[str], bool]) -> str:
    """Return the folders around the parts: none, those of ImageNet's archive, or the only folder at the top."""
    folders = set(tops)
    if folders & set(PARTS):
        return ""
    known_prefix = next(filter(has, _INSIDE), None)
    return known_prefix or (f"{folders.pop()}/" if len(folders) == 1 else "")


def _not_a_zip(path: Path) -> str:
    """Return the message about a file that zipfile refuses."""
    try:
        with path.open("rb") as stream:
            starts_as_zip = stream.read(4) == b"PK\x03\x04"
    except OSError:
        starts_as_zip = False
    if starts_as_zip:
        return f"{path} begins as a zip file but its end is missing or damaged: copy or download it again"
    return _NEITHER.format(path)
