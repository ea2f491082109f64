"""What every method has in common: how it trains, and how what it trained is made to spike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.convert import quantize, to_spiking
from qffs.graph.place import activations
from qffs.graph.trace import Example
from qffs.levels import FiringRule
from qffs.network import SpikingNetwork
from qffs.nn.modes import evaluating
from qffs.nn.quantizer import Quantizer

Batches = Iterable[Tensor]
RATE = FiringRule(negative_spikes=False, cap=False, precharge=0.0)
"""Plain integrate-and-fire neurons, whose rates stand for activations."""


@dataclass(frozen=True)
class Activation:
    """What stands where the network had a ReLU while a method trains it.

    ``make``: a module, given where the ReLU was clipped from above, if it was; ``start``: sets it from what reaches it
    in a batch; ``penalty``: what is added to the loss, of all such modules.
    """

    name: str
    make: Callable[[float | None], nn.Module]
    start: Callable[[Any, Tensor], None] | None = None
    penalty: Callable[[list[Any]], Tensor] | None = None


@dataclass(frozen=True)
class Method:
    """A way to a spiking network.

    ``source``: who published it; ``says``: what it does, in a line; ``activation``: how it trains; ``spiking``: the
    spiking network of a trained one, given some batches of inputs and the latency T that it is read at; ``before``: how
    many steps of a prediction come before those that are read out; ``by_latency``: whether each T has a network of
    its own; ``notes``: what is otherwise here than with its authors.
    """

    name: str
    title: str
    source: str
    says: str
    activation: Activation
    spiking: Callable[[fx.GraphModule, Batches, int], SpikingNetwork]
    before: int = 0
    by_latency: bool = False
    notes: str = ""


def placed(model: nn.Module, example: Example, activation: Activation) -> fx.GraphModule:
    """A copy of a network with an activation's module in the place of every ReLU."""
    network = quantize(model, levels=1, example=example)
    for path in activations(network):
        quantizer = network.get_submodule(path)
        assert isinstance(quantizer, Quantizer)
        made = activation.make(quantizer.clip).to(quantizer.step_size.device, quantizer.step_size.dtype)
        network.set_submodule(path, made.train(network.training))
    return network


@torch.no_grad()
def started(network: fx.GraphModule, activation: Activation, batch: Tensor) -> fx.GraphModule:
    """The network, its activations set from what reaches them in a batch, those before them in force."""
    if activation.start is not None:
        start = activation.start
        hooks = [network.get_submodule(path).register_forward_pre_hook(lambda module, x: start(module, x[0]))
                 for path in activations(network)]  # fmt: skip
        try:
            with evaluating(network):
                network(batch)
        finally:
            for hook in hooks:
                hook.remove()
    return network


@torch.no_grad()
def observed(network: fx.GraphModule, batches: Batches, largest: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """By activation, the largest of a number of what it gives in each of some batches."""
    found: dict[str, float] = {}

    def observe(path: str, _: nn.Module, __: Any, given: Tensor) -> None:
        found[path] = max(found.get(path, 0.0), float(largest(given)))

    hooks = [network.get_submodule(path).register_forward_hook(partial(observe, path)) for path in activations(network)]
    try:
        with evaluating(network):
            for batch in batches:
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rates(
    network: fx.GraphModule, thresholds: Mapping[str, float], steps: int, rule: FiringRule = RATE
) -> SpikingNetwork:
    """A network whose rates over T steps are its activations: input and biases are on at every step.

    In the units of `SpikingNetwork`, where what is sent adds up to the activation: thresholds are θ / T, and a T-th of
    the input comes at each step. Scaling both changes no spike, and what has been read out after t steps is t / T of
    the mean over these t steps, so that the largest output is that of the mean.
    """
    network = copy.deepcopy(network)
    for path in activations(network):
        quantizer = Quantizer(steps, offset=rule.precharge or 0.0)
        quantizer.set_step_size(max(thresholds[path], 1e-6) / steps)
        reference = next(iter(network.parameters()))
        network.set_submodule(path, quantizer.to(reference.device, reference.dtype))
    return to_spiking(network, steps, replace(rule, precharge=rule.precharge or 0.0))
