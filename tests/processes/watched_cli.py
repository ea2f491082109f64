"""The command line, which notes every file of its output that this process opens to write, moves or removes.

``watched_cli.py NOTES ARGUMENTS... OUTPUT`` writes them as lines of ``NOTES/<rank>``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from qffs.cli import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0}
"""The events of Python that change a folder, and which of their arguments is what changes."""

output = sys.argv[-1] + os.sep
notes = Path(os.devnull)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note an event of Python's own (PEP 578)."""
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        note(arguments[0])
    elif event in CHANGES:
        note(arguments[CHANGES[event]])


def note(path: object) -> None:
    if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(output):
        with notes.open("a") as stream:
            stream.write(os.fspath(path).removeprefix(output) + "\n")


if __name__ == "__main__":
    notes = Path(sys.argv.pop(1)) / os.environ.get("RANK", "alone")
    notes.touch()
    sys.addaudithook(watch)
    main()
