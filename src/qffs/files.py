"""Files and folders that are written whole or not at all, by one process at a time; and results as plain data.

A new file or folder is written under a hidden name beside its path, and then renamed. So a reader at any moment, and
also after a crash, sees the old one or the new one, never a part of it. The hidden name is another one each time, so
that two processes can write to the same path, and no file of the user is in the way.
"""

from __future__ import annotations

import glob
import json
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from qffs.errors import CheckpointError, InvalidArgument, QffsError

Results = dict[str, Any]
"""The measurements of a run as plain data: numbers, strings, lists and dictionaries."""


def to_json(results: Results | list[Results]) -> str:
    """Return results as the text of results.json. The same results give the same text.

    Raises `InvalidArgument` on NaN and infinity, which JSON does not have.
    """
    try:
        return json.dumps(results, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise InvalidArgument(f"the results hold NaN or infinity, which JSON cannot represent: {error}") from error


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all (see `write`), and return ``path``."""
    return write(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def write(path: Path, write_to: Callable[[Path], object]) -> Path:
    """Let ``write_to`` write a file beside ``path``, rename it to ``path``, and return ``path``.

    Raises `QffsError` where the file cannot be written; an earlier file at ``path`` then stays. Only a file is
    replaced, never a device such as /dev/null. A link stays: the file that it names is written.
    """
    whole = Path(os.path.realpath(path))
    # An open pipe, such as /dev/stdout, exists, but not under the path that it resolves to.
    if (path.exists() and not whole.is_file()) or whole.is_symlink():
        raise InvalidArgument(f"{path} is no regular file, and cannot be replaced by one: name another output")
    fresh = temporary(whole, f"new{path.suffix}")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        fresh.touch(exist_ok=False)
        write_to(fresh)
        with fresh.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(fresh, whole)
    except OSError as error:
        raise QffsError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return path


def read_text(path: Path, most: int = 2**26) -> str:
    """Return the text of a regular file in UTF-8 with at most so many characters.

    Raises OSError on anything else, such as a pipe or a device, which might never end, and ValueError on other bytes.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is no regular file")
    with path.open(encoding="utf-8") as stream:
        text = stream.read(most + 1)
    if len(text) > most:
        raise OSError(f"it has more than {most:,} characters")
    return text


def put(path: Path, save: Callable[[BinaryIO], object]) -> None:
    """Let ``save`` write to memory, and then write the file ``path``.

    Libraries in C must not write to a disk themselves: where it is full, some of them end the process.
    """
    stream = BytesIO()
    save(stream)
    path.write_bytes(stream.getbuffer())


def write_folder(folder: Path, fill: Callable[[Path], object], what: str = "the checkpoint") -> None:
    """Let ``fill`` write the files of a new folder beside ``folder``, then rename it to ``folder``.

    what: the first words of the error message. Raises `CheckpointError` where the folder cannot be written; an earlier
    folder then stays.
    """
    fresh, old = temporary(folder, "new"), temporary(folder, "old")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        fresh.mkdir(parents=True)
        with _locked(fresh):
            fill(fresh)
            for path in fresh.iterdir():
                with path.open("r+b") as stream:
                    os.fsync(stream.fileno())
            _swap(fresh, folder, old)
    except OSError as error:
        raise CheckpointError(f"{what} could not be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # after a success they are not empty
                parent.rmdir()
    with suppress(OSError):
        for each in _left_behind(folder, "old"):
            shutil.rmtree(each, ignore_errors=True)
        for each in _left_behind(folder, "new"):
            with _locked(each) as dead:
                if dead:
                    shutil.rmtree(each, ignore_errors=True)


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Rename ``folder`` to ``old``, and ``fresh`` to ``folder``; where that fails, rename ``old`` back."""
    if folder.exists():
        folder.rename(old)  # where the machine stops here, `qffs.load` reads the old checkpoint
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():  # a signal may come just after the renaming
            old.rename(folder)
        raise


TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<version>new|old)(\..*)?")
"""The hidden names of files and folders that are being written, and of folders that are being replaced."""


def temporary(path: Path, version: str) -> Path:
    """Return a hidden path beside a path, for its new or old version, that nothing else has; see `TEMPORARY`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{version}")


def _left_behind(folder: Path, version: str) -> list[Path]:
    """Return the new or old versions of a folder that are beside it, the newest last; see `TEMPORARY`."""
    paths = folder.parent.glob(f".{glob.escape(folder.name)}.*.{version}")
    return sorted(filter(lambda path: TEMPORARY.fullmatch(path.name), paths), key=lambda path: path.stat().st_mtime)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, so that other processes know that one works on it; yield False where it cannot be locked."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        yield False
        return
    try:
        locked = lock(handle)
    except BlockingIOError:
        locked = False
    try:
        yield locked
    finally:
        os.close(handle)


def lock(handle: int) -> bool:
    """Lock an open file or folder until this process closes it or ends, and return whether the system can do so.

    Raises BlockingIOError if another process, or another handle of this one, has locked it.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):  # Windows, and some network file systems
        return False
    return True


def existing(folder: Path) -> Path:
    """Return the folder; if the machine stopped while it was being replaced, the old version of it."""
    olds = [] if folder.exists() else _left_behind(folder, "old")
    return olds[-1] if olds else folder


def remove_temporary(folder: Path, written: Iterable[str]) -> None:
    """Remove what processes left behind in a folder when they were killed; no process may be writing there.

    written: the names that they write; hidden files and folders of other names belong to others.
    """
    names = frozenset(written)
    for path in folder.iterdir():
        match = TEMPORARY.fullmatch(path.name)
        if match is None or match["name"] not in names:
            continue
        if match["version"] == "old" and not (folder / match["name"]).exists():
            path.rename(folder / match["name"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder, under a hidden name first, so that no part of it is seen."""
    gone = temporary(folder, "new")  # which the next process removes, if this one is killed
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def check_replaceable(path: Path, what: str, begins: bytes, *contains: bytes) -> None:
    """Raise `InvalidArgument` if there is a file that is not empty and is not of a kind that may be replaced.

    what: the kind, for the message. begins, contains: the first bytes of its files, and other bytes in each of them.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    same = False
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would wait for a writer
            with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                same = content[: len(begins)] == begins and all(content.find(each) >= 0 for each in contains)
    if not same:
        raise InvalidArgument(f"{path} exists and is not {what}: it is not replaced; name another output, or remove it")


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in the place of a leading ``~`` or ``~user``.

    Raises `InvalidArgument` if there is no such user, and no file or folder of that name.
    """
    text = os.path.expanduser(path)
    if text.startswith("~") and not os.path.lexists(text):
        user = Path(text).parts[0]
        raise InvalidArgument(f"{path}: there is no home folder {user}; a name that begins with ~ is written ./{user}")
    return Path(text)
