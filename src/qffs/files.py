"""Files and folders that are written whole or not at all, and results as plain data.

A new file or folder is written under a hidden name beside its path, and then renamed. So a reader at any moment, and
also after a crash, sees the old one or the new one, never a part of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from qffs.errors import CheckpointError, QffsError

Results = dict[str, Any]
"""The measurements of a run as plain data: numbers, strings, lists and dictionaries."""


def to_json(results: Results | list[Results]) -> str:
    """Return results as the text of results.json. The same results give the same text."""
    return json.dumps(results, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all (see `write`), and return ``path``."""
    return write(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def write(path: Path, write_to: Callable[[Path], object]) -> Path:
    """Let ``write_to`` write a file beside ``path``, rename it to ``path``, and return ``path``.

    Raises `QffsError` where the file cannot be written; an earlier file at ``path`` then stays.
    """
    fresh = path.with_name(f".{path.name}.new{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to(fresh)
        with fresh.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError as error:
        raise QffsError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return path


def write_folder(folder: Path, fill: Callable[[Path], object], what: str = "the checkpoint") -> None:
    """Let ``fill`` write the files of a new folder beside ``folder``, then rename it to ``folder``.

    what: the first words of the error message. Raises `CheckpointError` where the folder cannot be written; an earlier
    folder then stays.
    """
    fresh, old = beside(folder, "new"), beside(folder, "old")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
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
    shutil.rmtree(old, ignore_errors=True)


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Rename ``folder`` to ``old``, and ``fresh`` to ``folder``; where that fails, rename ``old`` back."""
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # where the machine stops here, `qffs.load` reads the old checkpoint
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():  # a signal may come just after the renaming
            old.rename(folder)
        raise


def beside(folder: Path, suffix: str) -> Path:
    """Return the hidden path beside a folder for its new or old version: suffix "new" or "old"."""
    return folder.with_name(f".{folder.name}.{suffix}")
