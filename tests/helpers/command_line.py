"""What a command line of qffs says in a test."""

from __future__ import annotations

from typing import NamedTuple


class Said(NamedTuple):
    """What a command line ended with, and what it printed on standard output and on standard error."""

    code: object
    out: str
    err: str
