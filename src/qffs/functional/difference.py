"""The rule for every stateless operator that is neither linear nor a neuron: ``g(X_t) - g(X_{t-1})``.

Source: Li, Ma, Furber 2022, algorithm 2 and eq. 4-6, where g is max pooling on accumulated spikes. The rule is
the same for any g of one or more signals: the differences add up to ``g(X_T)``, which is what the quantised
network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DifferenceState(NamedTuple):
    """What a differenced operator carries: the ``accumulated`` inputs X, one each, and its last ``value`` g(X)."""

    accumulated: tuple[Tensor, ...]
    value: Tensor | None


def accumulate(
    start: Tensor, constant: Tensor | None, increments: Tensor | None, charge: Sequence[float]
) -> list[Tensor]:
    """The running sums ``X_t = X_{t-1} + charge[t] * constant + increments[t]`` from ``X_0 = start``, one a step."""
    constant = None if constant is None else constant.to(start.dtype)
    sums = []
    total = start
    for t, weight in enumerate(charge):
        if increments is not None:
            total = total + increments[t]
        if constant is not None and weight:
            total = total + weight * constant
        sums.append(total)
    return sums


def difference(
    g: Callable[..., Tensor],
    state: DifferenceState,
    inputs: Sequence[tuple[Tensor | None, Tensor | None]],
    charge: Sequence[float],
) -> tuple[Tensor, DifferenceState]:
    """``z_t = g(X_t) - g(X_{t-1})`` over T steps, with ``g(X_0)`` taken as 0, so that the z add up to ``g(X_T)``.

    The sums are kept in the type of the state and handed to g in the type of the inputs.

    g: maps tensors ``[N, ...]`` to one tensor ``[N, ...]``, image by image; inputs: for each argument of g its
    constant ``[B, ...]`` or None and its increments ``[T, B, ...]`` or None, as in `qffs.functional.fire.fire`;
    charge: the T weights of the schedule. Returned: the differences ``[T, B, ...]`` and the state after step T.

    >>> spikes = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[-1.0, 0.0]]]])     # [T, B, channels, length]
    >>> start = DifferenceState((torch.zeros(1, 1, 2),), None)
    >>> pooled, state = difference(torch.nn.MaxPool1d(2), start, [(None, spikes)], charge=(0, 0, 0))
    >>> pooled.flatten()
    tensor([1., 0., 0.])
    """
    steps = len(charge)
    sums = [
        accumulate(start, constant, increments, charge)
        for start, (constant, increments) in zip(state.accumulated, inputs, strict=True)
    ]
    dtypes = [next(part.dtype for part in parts if part is not None) for parts in inputs]
    folded = g(*(torch.stack(each).flatten(0, 1).to(dtype) for each, dtype in zip(sums, dtypes, strict=True)))
    values = folded.unflatten(0, (steps, -1))
    before = torch.zeros_like(values[0]) if state.value is None else state.value
    differences = values - torch.cat([before.unsqueeze(0), values[:-1]])
    return differences, DifferenceState(tuple(each[-1] for each in sums), values[-1])
