"""A spiking network as populations of neurons and the synapses between them: what simulators of neurons are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Population:
    """A layer of neurons, or an output, which only adds up: its ``threshold`` is infinite.

    By unit ``[N]``, in float64: ``threshold`` θ, ``initial`` potential, and ``bias``, the constant part of its current,
    which the schedule charges. ``highest``: n, infinite without a cap; ``negative``: whether it takes spikes back;
    ``depth``: how many populations lie on the longest way to it.
    """

    name: str
    shape: tuple[int, ...]
    threshold: Tensor
    initial: Tensor
    bias: Tensor
    highest: float = math.inf
    negative: bool = True
    depth: int = 0

    @property
    def fires(self) -> bool:
        """Whether it is no output."""
        return bool(self.threshold.isfinite().all())


@dataclass(frozen=True)
class Synapses:
    """From one population, or an input, to another: a spike of unit ``pre[k]`` adds ``weight[k]`` at ``post[k]``.

    Of an input: a value x adds ``x * weight[k]``, charged by the schedule.
    """

    source: str
    target: str
    pre: Tensor
    post: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Circuit:
    """Inputs by name with their shapes, populations in the order of computation, and all synapses."""

    inputs: dict[str, tuple[int, ...]]
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    charge: tuple[float, ...]


def simulate(circuit: Circuit, inputs: Sequence[Tensor], steps: int) -> dict[str, Tensor]:
    """What every population sends, ``[T, B, N]``: spikes in {-1, 0, 1}, an output what it has added up so far.

    inputs: ``[B, ...]`` each. Without delays: all populations take step t before any takes step t + 1.
    """
    size = {name: math.prod(shape) for name, shape in circuit.inputs.items()}
    size |= {each.name: len(each.bias) for each in circuit.populations}
    into: dict[str, list[tuple[str, Tensor]]] = {each.name: [] for each in circuit.populations}
    for path in circuit.synapses:
        places, shape = torch.stack([path.pre, path.post]), (size[path.source], size[path.target])
        weights = torch.sparse_coo_tensor(places, path.weight, shape, check_invariants=True).coalesce()
        into[path.target].append((path.source, weights))
    values = {name: x.double().flatten(1) for name, x in zip(circuit.inputs, inputs, strict=True)}
    constant = {
        each.name: each.bias + sum((_carried(values[s], w) for s, w in into[each.name] if s in values), torch.zeros(()))
        for each in circuit.populations
    }
    batch = (len(inputs[0]), -1)
    potential = {each.name: each.initial.expand(batch) for each in circuit.populations}
    count = {each.name: torch.zeros_like(each.bias).expand(batch) for each in circuit.populations}
    found: dict[str, list[Tensor]] = {each.name: [] for each in circuit.populations}
    for t in range(steps):
        for each in circuit.populations:
            u = potential[each.name]
            if t < len(circuit.charge):
                u = u + circuit.charge[t] * constant[each.name]
            for source, weights in into[each.name]:
                if source not in values:
                    u = u + _carried(found[source][t], weights)
            if each.fires:
                z = ((u >= each.threshold) & (count[each.name] < each.highest)).double()
                z = z - ((u < 0) & (count[each.name] > 0)).double() if each.negative else z
                u, count[each.name] = u - each.threshold * z, count[each.name] + z
            potential[each.name] = u
            found[each.name].append(z if each.fires else u)
    return {name: torch.stack(each) for name, each in found.items()}


def _carried(sent: Tensor, weights: Tensor) -> Tensor:
    """``sent @ weights``, of sparse weights."""
    carried: Tensor = torch.sparse.mm(weights.t(), sent.t()).t()
    return carried
