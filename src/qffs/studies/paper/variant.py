"""The values by which networks of a study differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A variant of a recipe's network: ``bits`` of hidden layers, ``output`` ("analog" or bits), and ``pooling``.

    pooling: None keeps the pooling of the recipe.
    """

    bits: int
    output: int | str
    pooling: str | None = None
