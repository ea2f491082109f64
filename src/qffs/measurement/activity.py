"""The spikes of a layer of neurons by time step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Activity:
    """The spikes of one layer at each step, summed over its neurons and all images.

    layer: the path of the layer. positive, negative: the positive and the negative spikes, one number for each step.
    """

    layer: str
    positive: tuple[int, ...]
    negative: tuple[int, ...]
