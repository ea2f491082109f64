"""What tells networks on the shelf apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """What a network on the shelf has of its own: bits in hidden layers, "analog" or bits in the output layer, pooling.

    pooling: None leaves what the recipe says.
    """

    bits: int
    output: int | str
    pooling: str | None = None
