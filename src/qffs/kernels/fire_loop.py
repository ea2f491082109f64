"""The reference loop, `qffs.functional.neuron.fire`, on what has accumulated: on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qffs.functional import neuron as reference
from qffs.functional.lsq import accumulation_dtype
from qffs.functional.sparse_steps import Rows
from qffs.kernels.neurons import Neurons


def fire(neurons: Neurons) -> tuple[Tensor, Tensor]:
    """Levels ``[T, B, ...]`` and, ``[T, B]``, whether any of an image's changed.

    Steps at which nothing arrives any more are run until no neuron fires; the levels of those after are left out.
    """
    inputs, charge = neurons.rows(), neurons.charge
    end = _end(inputs, neurons.constant, charge) if neurons.rule.leak == 1 else len(charge)
    sums = [Rows(each.values, each.place[:end], each.scale).dense().unflatten(0, (end, -1)) for each in inputs]
    like = sums[0][0] if sums else neurons.constant
    assert like is not None
    wide = accumulation_dtype(like.dtype)
    total = sum((each.to(wide) for each in sums[1:]), sums[0].to(wide)) if sums else None
    increments = None if total is None else torch.cat([total[:1], total[1:] - total[:-1]])
    theta = neurons.threshold.to(wide)
    settings = theta, neurons.highest, neurons.rule
    state = reference.rest(like.to(wide), theta, neurons.precharge)
    spikes, state = reference.fire(state, neurons.constant, increments, charge[:end], *settings)
    every = list(spikes)
    while len(every) < len(charge) and bool(every[-1].any()):
        spike, state = reference.step(state, torch.zeros_like(state.potential), *settings)
        every.append(spike)
    spikes = torch.stack(every)
    levels = spikes.new_empty((len(charge), *spikes.shape[1:]), dtype=neurons.levels)
    changes = torch.zeros(levels.shape[:2], dtype=torch.bool, device=levels.device)
    levels[: len(every)] = spikes.cumsum(0)
    changes[: len(every)] = (spikes != 0).unsqueeze(-1).flatten(2).any(-1)
    return levels, changes


def _end(inputs: Sequence[Rows], constant: Tensor | None, charge: Sequence[float]) -> int:
    """The step from which on nothing arrives any more, at least 1."""
    charged = [t for t, weight in enumerate(charge) if weight and constant is not None]
    moved = [(each.place[1:] != each.place[:-1]).any(1).nonzero().flatten() + 1 for each in inputs]
    return max([0, *charged, *(int(each[-1]) for each in moved if len(each))]) + 1
