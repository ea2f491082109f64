"""Failures outside of this library: full disks and pipes that close, encodings, memory; each is one sentence."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

MEMORY = ("out of memory", "allocate memory")
"""Words of PyTorch's messages where memory is too small."""


def explained(error: Exception) -> str | None:
    """Return the sentence about a failure that is no fault of this library; None for any other error.

    >>> explained(PermissionError(13, "Permission denied", "net"))
    'net: Permission denied'
    """
    match error:
        case BrokenPipeError():
            return "the reader of the output closed it before its end"
        case OSError(filename=str(name)):
            return f"{name}: {error.strerror or error}"
        case OSError():  # files of ours have names in their errors
            return f"the output cannot be written: {error.strerror or error}"
        case UnicodeError():
            return f"a text cannot be read or written in the encoding of this terminal or file: {error}"
        case RecursionError():
            return "a file or a network is nested deeper than Python can follow"
        case MemoryError():
            return f"memory is too small: {error}".removesuffix(": ")
        case RuntimeError() if any(words in str(error) for words in MEMORY):
            return f"memory is too small: {str(error).splitlines()[0]}"
    return None


def abandon_output() -> None:
    """Drop what standard output still holds: at its end, Python would try again and fail with a message of its own."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
