"""The user's folder of compiled libraries: found, checked, read and written. Needs no torch.

A library is a file ``KEY-DIGEST.so``. The key stands for all that it was compiled from, the digest is that of its
bytes: a damaged file is never loaded, which could end the process. A file is written under another name and renamed,
so that several processes can do so at once.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path:
    """Return ``$XDG_CACHE_HOME/qffs``, or ``~/.cache/qffs`` where that variable is not an absolute path."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else os.path.expanduser("~/.cache"), "qffs")


def describe() -> str:
    """Return where compiled libraries lie, or will, or why none can be kept there; nothing is written for it."""
    path = folder()
    try:
        there = path.exists()
        _check(path if there else path.parent if path.parent.exists() else path.parent.parent, owned=there)
    except OSError as error:
        return f"compiled simulator not kept: {reason(error)}"
    return f"compiled simulator in {path}"


def find(key: str) -> Path | None:
    """Return the whole library of a key, or None; a damaged one is removed.

    Raises `OSError` where the folder cannot be used.
    """
    for path in sorted(_usable().glob(f"{key}-*.so")):
        if path.name == _name(key, path.read_bytes()):
            return path
        path.unlink()
    return None


def keep(key: str, library: Path) -> Path:
    """Copy a library into the folder, and return where it lies now. Raises `OSError` where that cannot be done."""
    data, place = library.read_bytes(), _usable()
    handle, fresh = tempfile.mkstemp(".new", dir=place)
    try:
        with open(handle, "wb") as stream:
            stream.write(data)
        return Path(fresh).replace(place / _name(key, data))
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def reason(error: OSError) -> str:
    """Return the words of an error: the file that it names, and what is wrong with that."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _name(key: str, data: bytes) -> str:
    return f"{key}-{hashlib.sha256(data).hexdigest()[:32]}.so"


def _usable() -> Path:
    """Return the folder, made with mode 0700 where it was missing. Raises `OSError` where it cannot be used."""
    path = folder()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    _check(path)
    return path


def _check(path: Path, owned: bool = True) -> None:
    """Raise `OSError` for a folder that another user has or may write to, that is read-only, or starts no programs.

    owned: whether the first two matter: somebody else's library must never be loaded, and so no folder of theirs,
    also where a link leads to it.
    """
    if os.name != "posix":
        raise OSError("this system does not say whose a folder is")
    for status in (path.lstat(), path.stat()) if owned else ():
        if status.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & OTHERS and not stat.S_ISLNK(status.st_mode):
            raise PermissionError(f"other users may write to {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written to")
    if os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"{path} is mounted without the right to run programs")
