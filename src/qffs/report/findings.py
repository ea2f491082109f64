"""What a table or a figure shows, as plain data: rows, and panels of curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Number = int | float
Cell = str | Number | None


@dataclass(frozen=True)
class Series:
    """One curve or set of points: ``style`` is a line with marks, a level line, or points alone.

    ``published``: where figures that were not measured here come from; empty for what was. ``spread``: of each y, above
    and below.
    """

    name: str
    x: list[Number]
    y: list[Number]
    style: Literal["line", "level", "points", "steps"] = "line"
    published: str = ""
    spread: list[Number] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """Axes and what is drawn in them; ``bits``: a second axis of log2(T + 1), the bits that T steps can tell apart."""

    title: str
    x: str
    y: str
    series: list[Series]
    log: bool = False
    bits: bool = False


@dataclass(frozen=True)
class Findings:
    """What a table or figure shows: rows under a head, panels, and notes on what differs from the paper and why."""

    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
