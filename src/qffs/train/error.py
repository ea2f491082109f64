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

    sizes: s of each pair, the mean of ``sum(t^2)`` over images.

    >>> error([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 1.0])], [1.0])
    tensor(0.5000)
    """
    errors = []
    for y, t, size in zip(outputs, targets, sizes, strict=True):
        wide = torch.promote_types(t.dtype, torch.float32)
        errors.append(((y.to(wide) - t.to(wide)) / math.sqrt(size)).square().sum() / len(t))  # in any units
    return torch.stack(errors).mean()


def sizes(targets: Values) -> list[float]:
    """Return the mean of ``sum(t^2)`` over images, by output; of an output that is always 0, the largest of the others.

    Raises `Diverged` where a target is NaN or infinite.
    """
    sizes = [float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 / len(t) for t in targets]
    if not all(map(math.isfinite, sizes)):
        raise Diverged("NaN or infinity reached an output of the network in full precision: check data and weights")
    return [size or max(sizes) or 1.0 for size in sizes]
