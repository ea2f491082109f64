"""The error of a quantized network's outputs, relative to their sizes in full precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qffs.errors import Diverged
from qffs.train.values import Values


def error(outputs: Sequence[Tensor], targets: Sequence[Tensor], sizes: Sequence[float]) -> Tensor:
    """Return ``sum((y - t)^2) / (B s)`` of outputs y ``[B, ...]`` and targets t, the mean over the pairs of both.

    sizes: s of each pair, the mean of ``sum(t^2)`` over images. Numbers t that are NaN or infinite, as masks make them,
    are left out of both sums; outputs of whole numbers have no error.

    >>> error([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 1.0])], [1.0])
    tensor(0.5000)
    """
    errors = []
    for y, t, size in zip(outputs, targets, sizes, strict=True):
        if not t.is_floating_point():
            continue
        wide = torch.promote_types(t.dtype, torch.float32)
        scaled = (y.to(wide) - t.to(wide)) / math.sqrt(size)  # so that squares are neither too small nor too large
        errors.append(scaled.where(t.isfinite(), 0).square().sum() / len(t))
    return torch.stack(errors).mean() if errors else torch.zeros(())


def sizes(targets: Values) -> list[float]:
    """Return the mean of ``sum(t^2)`` over images, by output; of an output that is always 0, the largest of the others.

    Targets that are infinite or NaN are left out, and whole numbers have no size of their own. Raises `Diverged` where
    nothing is left.
    """
    if not any(bool(t.isfinite().any()) for t in targets):
        raise Diverged("the outputs of the network in full precision are all NaN or infinite: check data and weights")
    finite = (t.where(t.isfinite(), 0) for t in targets)
    squares = [_square(t) / len(t) if t.is_floating_point() else 0.0 for t in finite]
    return [square or max(squares) or 1.0 for square in squares]


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2
