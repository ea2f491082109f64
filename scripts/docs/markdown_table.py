"""Tables in Markdown, for the pages that the scripts beside this one write."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return rows as a Markdown table, with numbers aligned to the right."""
    marks = ["---" if isinstance(cell, str) else "---:" for cell in rows[0]]
    lines = [head, marks, *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: object) -> str:
    """Return the text of a cell: floats with two decimals, None as an empty text."""
    return "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)
