"""Thresholds of activations: the trained height, and the height with the least error."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from qffs.graph.replace import activations

GRID = 100


def heights(network: fx.GraphModule) -> dict[str, float]:
    """Return the trained height λ of each activation."""
    trained: dict[str, Any] = {path: network.get_submodule(path).height for path in activations(network)}
    return {path: float(height.detach()) for path, height in trained.items()}


def best(values: Tensor, steps: int) -> float:
    """Return the θ with the least mean square error of ``θ clip(floor(x T / θ + 1/2) / T, 0, 1)``.

    The candidates are 100 values up to the largest x.

    >>> best(torch.tensor([0.0, 1.0, 2.0, 4.0]), 4)
    4.0
    """
    largest = float(values.max())
    if largest <= 0:
        return 1e-6
    candidates = [largest * k / GRID for k in range(1, GRID + 1)]
    errors = [float((θ * (values * steps / θ + 0.5).floor().clamp(0, steps) / steps - values).square().mean())
              for θ in candidates]  # fmt: skip
    return candidates[errors.index(min(errors))]
