"""A spiking network as populations of neurons with synapses between them, the form that simulators of neurons take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Population:
    """A layer of N neurons, or an output: its units have an infinite threshold and only add up what arrives.

    name: the name of the layer or output. shape: the shape of one image.
    threshold, initial, bias: for each unit ``[N]``, in float64: the threshold θ, the potential before the first step,
    and the constant part of the current, which is charged by the schedule.
    highest: the highest level n; infinite without a cap. negative: whether the neurons send negative spikes.
    depth: the number of populations on the longest path to this one.
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
        """True for a layer of neurons, False for an output."""
        return bool(self.threshold.isfinite().all())


@dataclass(frozen=True)
class Synapses:
    """The synapses from one population or input to another population, as three arrays ``[K]``.

    A spike of unit ``pre[k]`` of the source adds ``weight[k]`` to the potential of unit ``post[k]`` of the target. A
    value x of an input adds ``x * weight[k]``, charged by the schedule.
    """

    source: str
    target: str
    pre: Tensor
    post: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Circuit:
    """A circuit: the shapes of the inputs by name, the populations in the order of computation, and all synapses.

    charge: the charge weights of the first D steps.
    """

    inputs: dict[str, tuple[int, ...]]
    populations: tuple[Population, ...]
    synapses: tuple[Synapses, ...]
    charge: tuple[float, ...]


def simulate(circuit: Circuit, inputs: Sequence[Tensor], steps: int) -> dict[str, Tensor]:
    """Return the spikes of each population by name, ``[T, B, N]`` in {-1, 0, 1}; for an output, its potential.

    inputs: one tensor ``[B, ...]`` for each input. There are no delays: all populations compute step t before step
    t + 1.
    """
    size = {name: math.prod(shape) for name, shape in circuit.inputs.items()}
    size |= {each.name: len(each.bias) for each in circuit.populations}
    into: dict[str, list[tuple[str, Tensor]]] = {each.name: [] for each in circuit.populations}
    for path in circuit.synapses:
        indices, shape = torch.stack([path.pre, path.post]), (size[path.source], size[path.target])
        weights = torch.sparse_coo_tensor(indices, path.weight, shape, check_invariants=True).coalesce()
        into[path.target].append((path.source, weights))
    values = {name: x.double().flatten(1) for name, x in zip(circuit.inputs, inputs, strict=True)}
    constant = {
        each.name: each.bias + sum((_product(values[s], w) for s, w in into[each.name] if s in values), torch.zeros(()))
        for each in circuit.populations
    }
    batch = (len(inputs[0]), -1)
    potential = {each.name: each.initial.expand(batch) for each in circuit.populations}
    count = {each.name: torch.zeros_like(each.bias).expand(batch) for each in circuit.populations}
    trains: dict[str, list[Tensor]] = {each.name: [] for each in circuit.populations}
    for t in range(steps):
        for each in circuit.populations:
            u = potential[each.name]
            if t < len(circuit.charge):
                u = u + circuit.charge[t] * constant[each.name]
            for source, weights in into[each.name]:
                if source not in values:
                    u = u + _product(trains[source][t], weights)
            if each.fires:
                z = ((u >= each.threshold) & (count[each.name] < each.highest)).double()
                z = z - ((u < 0) & (count[each.name] > 0)).double() if each.negative else z
                u, count[each.name] = u - each.threshold * z, count[each.name] + z
            potential[each.name] = u
            trains[each.name].append(z if each.fires else u)
    return {name: torch.stack(each) for name, each in trains.items()}


def _product(sent: Tensor, weights: Tensor) -> Tensor:
    """Return ``sent @ weights`` for sparse weights."""
    product: Tensor = torch.sparse.mm(weights.t(), sent.t()).t()
    return product
