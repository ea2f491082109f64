"""What a process runs that ends with exit code 3; in a file of its own, so that the process can import it."""

from __future__ import annotations

from typing import Any


def failing(*_: Any) -> None:
    raise SystemExit(3)
