"""Spikes of a layer of neurons by time step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Activity:
    """Spikes of one layer by step, summed over its units and all images: ``positive`` and ``negative`` apart."""

    layer: str
    positive: tuple[int, ...]
    negative: tuple[int, ...]
