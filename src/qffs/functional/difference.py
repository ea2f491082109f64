"""The difference rule, for every stateless operator that is neither linear nor a neuron: ``g(X_t) - g(X_{t-1})``.

Source: Li, Ma, Furber 2022, algorithm 2 and eq. 4-6, where g is max pooling on accumulated spikes. The rule is the
same for any g of one or more signals: the differences add up to ``g(X_T)``, the result of the quantized network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DifferenceState(NamedTuple):
    """The state of a differenced operator: ``accumulated``, the sums X of its inputs, and ``values``, g(X).

    ``values`` holds one tensor for each result of g, and is None before the first step.
    """

    accumulated: tuple[Tensor, ...]
    values: tuple[Tensor, ...] | None


def accumulate(
    start: Tensor, constant: Tensor | None, increments: Tensor | None, charge: Sequence[float]
) -> list[Tensor]:
    """Return the running sums ``X_t = X_{t-1} + charge[t] * constant + increments[t]`` of the T steps; ``X_0 = start``.

    A constant of whole numbers is not charged: it names things (tokens, a mask). Each sum is then the constant.
    """
    if constant is not None and not (constant.is_floating_point() or constant.is_complex()):
        return [constant.expand_as(start)] * len(charge)
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
    g: Callable[..., tuple[Tensor, ...]],
    state: DifferenceState,
    inputs: Sequence[tuple[Tensor | None, Tensor | None]],
    charge: Sequence[float],
) -> tuple[tuple[Tensor, ...], DifferenceState]:
    """Return ``z_t = g(X_t) - g(X_{t-1})`` over T steps, with ``g(X_0) = 0``, so that the z add up to ``g(X_T)``.

    The sums have the type of the state, and g receives them in the type of the inputs. Where a value of g is not finite
    yet, as a quotient before its divisor has arrived, the last finite value is used instead.

    g: maps tensors ``[N, ...]`` to one or several tensors ``[N, ...]``, image by image; inputs: for each argument of
    g its constant ``[B, ...]`` or None and its increments ``[T, B, ...]`` or None, as in `qffs.functional.neuron.fire`;
    charge: the T weights of the schedule. Returns the differences ``[T, B, ...]`` of each of g's tensors, and the
    state after step T.

    >>> spikes = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]], [[[-1.0, 0.0]]]])     # [T, B, channels, length]
    >>> start = DifferenceState((torch.zeros(1, 1, 2),), None)
    >>> (pooled,), state = difference(lambda x: (torch.max_pool1d(x, 2),), start, [(None, spikes)], charge=(0, 0, 0))
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
    before = [None] * len(folded) if state.values is None else state.values
    differences, values = [], []
    for each, last in zip(folded, before, strict=True):
        after = each.unflatten(0, (steps, -1))
        start = torch.zeros_like(after[0]) if last is None else last
        after = last_finite(start, after)
        differences.append(after - torch.cat([start.unsqueeze(0), after[:-1]]))
        values.append(after[-1])
    return tuple(differences), DifferenceState(tuple(each[-1] for each in sums), tuple(values))


def last_finite(last: Tensor, values: Tensor) -> Tensor:
    """Return values over time ``[T, ...]`` with each that is not finite replaced by the last finite value before it.

    last: the values before the first step, ``[...]``.
    """
    finite = values.isfinite()
    if not torch.compiler.is_compiling() and bool(finite.all()):  # an exported program cannot branch on data
        return values
    results = []
    for value, is_finite in zip(values.unbind(), finite.unbind(), strict=True):
        last = torch.where(is_finite, value, last)
        results.append(last)
    return torch.stack(results)
