"""Files and folders that are written whole, or not at all, and results as plain data.

Something new is written beside its place and put there by renaming: whoever reads at any moment, or after a crash,
finds what was there before or what is new, never a part of it.
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
"""What a run measured, as plain data: numbers, strings, lists and dictionaries."""


def to_json(results: Results | list[Results]) -> str:
    """Return the text of results.json: the same results give the same text."""
    return json.dumps(results, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> Path:
    """`write` a text file in UTF-8."""
    return write(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def write(path: Path, write_to: Callable[[Path], object]) -> Path:
    """Let ``write_to`` write a file beside ``path``, put it in place whole, and return ``path``.

    Raises `QffsError` where that cannot be done; an earlier file then stays.
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
    """Let ``fill`` write the files of a folder beside ``folder``, then put it in place whole.

    what: how the message of the `CheckpointError` begins that is raised where that cannot be done.
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
    """Rename ``fresh`` to ``folder``; what was there becomes ``old``, and comes back where the renaming fails."""
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # should the machine stop here, `qffs.load` reads the old checkpoint
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():  # a signal may come just after the renaming
            old.rename(folder)
        raise


def beside(folder: Path, suffix: str) -> Path:
    """Return the hidden neighbor of a folder that an exchange uses: suffix "new" or "old"."""
    return folder.with_name(f".{folder.name}.{suffix}")
