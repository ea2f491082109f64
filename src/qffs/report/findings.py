"""The contents of a table or figure as plain data: rows, and panels of curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Number = int | float
Cell = str | Number | None


@dataclass(frozen=True)
class Series:
    """A curve or a set of points.

    ``style``: "line" (with marks), "level" (a horizontal line), "points", or "steps" (a line without marks).
    ``published``: the source of results that were not measured here, else empty. ``spread``: the distance above and
    below each y that is shaded.
    """

    name: str
    x: list[Number]
    y: list[Number]
    style: Literal["line", "level", "points", "steps"] = "line"
    published: str = ""
    spread: list[Number] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """Axes and their curves.

    ``x`` and ``y``: the labels of the axes; ``log``: whether the x axis is logarithmic; ``bits``: whether there is a
    second x axis of log2(T + 1), the bits of the levels 0 to T that T steps can send.
    """

    title: str
    x: str
    y: str
    series: list[Series]
    log: bool = False
    bits: bool = False


@dataclass(frozen=True)
class Findings:
    """The contents of a table or figure: rows under a head, panels, and notes on differences from the paper."""

    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
