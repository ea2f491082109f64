"""The signed integrate-and-fire neuron: one time step, and the loop over time.

Source: Li, Ma, Furber 2022, algorithm 1 and eq. 14-16, with the negative spike at ``u < 0`` instead of ``u <= 0``:
as printed in the paper, a neuron whose charge ends exactly on a level would send +1 and -1 in turn, for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qffs.method import FiringRule


class NeuronState(NamedTuple):
    """The state of neurons between two steps: ``potential`` u and ``sent`` Z, the sum of the spikes so far."""

    potential: Tensor
    sent: Tensor


SIGNED = FiringRule()


def rest(like: Tensor, threshold: Tensor, precharge: float) -> NeuronState:
    """Return the state before the first step, in the shape of ``like``: u = ``precharge * threshold``, Z = 0."""
    return NeuronState((precharge * threshold).expand_as(like), torch.zeros_like(like))


def step(
    state: NeuronState, current: Tensor, threshold: Tensor, highest: int, rule: FiringRule = SIGNED
) -> tuple[Tensor, NeuronState]:
    """Take one time step: charge, fire, subtract. Return the spikes z in {-1, 0, 1} and the next state.

    ::

        u <- u + I
        z  = +1 if u >= θ and Z < n,  -1 if u < 0 and Z > 0,  else 0
        u <- u - θ z,  Z <- Z + z

    current: I ``[B, ...]``, in the units of θ; threshold: θ, a scalar or one per channel ``[C, 1, ...]``; highest: n.
    Charge is conserved: ``u + θ Z`` grows by I. A rule with a decay λ begins with ``u <- λ u + I``, see `FiringRule`.

    >>> θ = torch.tensor(1.0)
    >>> state = rest(torch.zeros(1), θ, precharge=0.5)
    >>> for current in (0.75, 1.0, -2.5, 0.0):
    ...     spikes, state = step(state, torch.tensor([current]), θ, highest=3)
    ...     print(spikes.item(), state.potential.item(), state.sent.item())
    1.0 0.25 1.0
    1.0 0.25 2.0
    -1.0 -1.25 1.0
    -1.0 -0.25 0.0
    """
    potential = (state.potential if rule.decay == 1 else rule.decay * state.potential) + current
    if rule.multi_spike:
        return _multi_spike(NeuronState(potential, state.sent), threshold, highest, rule)
    fires = potential >= threshold
    if rule.cap:
        fires = fires & (state.sent < highest)
    spikes = fires.to(potential.dtype)
    if rule.negative_spikes:
        spikes = spikes - ((potential < 0) & (state.sent > 0)).to(potential.dtype)
    after = potential.where(spikes == 0, 0.0) if rule.reset == "zero" else potential - threshold * spikes
    return spikes, NeuronState(after, state.sent + spikes)


def _multi_spike(charged: NeuronState, threshold: Tensor, highest: int, rule: FiringRule) -> tuple[Tensor, NeuronState]:
    """Send as many spikes at once as reach the level of the charge: ``z = clip(floor(u / θ + Z), 0, n) - Z``."""
    level = (charged.potential / threshold).floor() + charged.sent
    level = level.clamp(0, highest) if rule.cap else level.clamp_min(0)
    spikes = level - charged.sent
    spikes = spikes if rule.negative_spikes else spikes.clamp_min(0)
    return spikes, NeuronState(charged.potential - threshold * spikes, charged.sent + spikes)


def fire(
    state: NeuronState,
    constant: Tensor | None,
    increments: Tensor | None,
    charge: Sequence[float],
    threshold: Tensor,
    highest: int,
    rule: FiringRule = SIGNED,
) -> tuple[Tensor, NeuronState]:
    """Take T time steps (`step`) with the current ``I_t = charge[t] * constant + increments[t]``.

    constant: ``[B, ...]``, ``[1, ...]`` or None, injected by the schedule; increments: ``[T, B, ...]`` or None, the
    spikes of other neurons through their weights; charge: the T weights of the schedule. Returns the spikes
    ``[T, B, ...]`` in {-1, 0, 1} and the state after step T, from which another call may continue.
    """
    wide = state.potential.dtype
    constant = None if constant is None else constant.to(wide)
    spikes = []
    for t, weight in enumerate(charge):
        current = torch.zeros_like(state.potential) if increments is None else increments[t].to(wide)
        if constant is not None and weight:
            current = current + weight * constant
        sent, state = step(state, current, threshold, highest, rule)
        spikes.append(sent)
    return torch.stack(spikes), state
