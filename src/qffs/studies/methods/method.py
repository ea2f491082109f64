"""The parts that methods share: the activation that trains, and the spiking network that is made from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.convert import quantize, to_spiking
from qffs.errors import InvalidArgument, NotConvertible
from qffs.graph.call import label
from qffs.graph.classify import classify, write_sites
from qffs.graph.replace import activations
from qffs.graph.site import Kind, site
from qffs.graph.trace.trace import Example, trace
from qffs.method import FiringRule
from qffs.nn.inspect import empty_like, evaluating
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork

Batches = Iterable[Tensor]
SOME, NUMBERS = 64, 2**23
"""The most images for a threshold that needs each step of each image, and the most numbers in their inputs."""
RATE = FiringRule(negative_spikes=False, cap=False, precharge=0.0)
"""The firing rule of plain integrate-and-fire neurons, whose rates are the activations."""


@dataclass(frozen=True)
class Activation:
    """The module that a method trains in the place of every ReLU.

    ``make``: returns the module; its argument is the upper bound of the ReLU, or None; ``start``: sets a module from
    its input of one batch; ``penalty``: returns a term of the loss from all modules; ``finish``: returns the network
    after a second training on a few batches.

    For direct training: ``steps``: the number of steps over which the network spikes while it trains; ``prepare``:
    returns the network that trains from the one in full precision; ``adapt``: called before the first epoch and after
    each epoch with the network that trains, its modules, and some inputs and labels; ``training``: values that replace
    those of the recipe; ``extra``: the extra of this library that has to be installed.
    """

    name: str
    make: Callable[[float | None], nn.Module]
    start: Callable[[Any, Tensor], None] | None = None
    penalty: Callable[[list[Any]], Tensor] | None = None
    finish: Callable[[fx.GraphModule, Batches], fx.GraphModule] | None = None
    steps: int = 0
    prepare: Callable[[fx.GraphModule], nn.Module] | None = None
    adapt: Callable[[nn.Module, list[Any], Tensor, Tensor], None] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    extra: str = ""

    def installed(self) -> None:
        """Raise `InvalidArgument` if the extra is not installed."""
        if self.extra and find_spec(self.extra) is None:
            raise InvalidArgument(
                f"{self.name}: this needs {self.extra}, which is not installed: pip install 'qffs[{self.extra}]'"
            )


RELU = Activation("ReLU", lambda clip: nn.ReLU() if clip is None else nn.Hardtanh(0.0, clip))
"""The ReLU, or a clipped ReLU where the network had one."""


@dataclass(frozen=True)
class Method:
    """A method to make a spiking network.

    ``source``: its publication; ``says``: what it does, in one line; ``activation``: what it trains; ``spiking``:
    returns the spiking network from the trained network, some batches of inputs and the latency T of the read-out;
    ``before``: the number of steps before the steps that are read out; ``by_latency``: whether each T needs another
    spiking network; ``notes``: how it differs from its publication.
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
    """Return a copy of a network with an activation's module in the place of every ReLU.

    Raises `NotConvertible` if direct training cannot train the network.
    """
    if activation.steps:
        traced = trace(model, example)
        write_sites(classify(traced))
        _check_linear(traced)
        model = traced if activation.prepare is None else activation.prepare(traced)
    network = quantize(model, levels=1, example=example)
    for path in activations(network):
        quantizer = network.get_submodule(path)
        assert isinstance(quantizer, Quantizer)
        module = activation.make(quantizer.clip).to(quantizer.step_size.device, quantizer.step_size.dtype)
        network.set_submodule(path, module.train(network.training))
    return network


def _check_linear(network: fx.GraphModule) -> None:
    """Raise `NotConvertible` for an operator that is not linear, such as max pooling.

    Applied to the spikes of each step, it does not add up to its result on the counts.
    """
    for node in network.graph.nodes:
        if site(node).kind is Kind.DIFFERENCED:
            raise NotConvertible(
                "direct training needs a network that is linear except for its ReLUs, with average pooling: "
                f"this one has {node.name} ({label(node, network)})"
            )


class OverTime(nn.Module):
    """A network that spikes: it gets its inputs at each of T steps, all in one batch, and its outputs are averaged."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.steps = network, steps

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the mean of the outputs over the steps."""
        out: Tensor = self.network(*(x.repeat(self.steps, *[1] * (x.dim() - 1)) for x in inputs))
        mean: Tensor = out.unflatten(0, (self.steps, -1)).mean(0)
        return mean


def over_time(network: fx.GraphModule, activation: Activation) -> nn.Module:
    """Return the module that trains: the network, or in direct training `OverTime` of it."""
    return OverTime(network, activation.steps) if activation.steps else network


@torch.no_grad()
def started(network: fx.GraphModule, activation: Activation, batch: Tensor) -> fx.GraphModule:
    """Set the activations of a network, in order, each from its input of a batch, and return the network."""
    if activation.start is not None:
        start = activation.start
        hooks = [network.get_submodule(path).register_forward_pre_hook(lambda module, x: start(module, x[0]))
                 for path in activations(network)]  # fmt: skip
        try:
            with evaluating(network):
                over_time(network, activation)(batch)
        finally:
            for hook in hooks:
                hook.remove()
    return network


def some(batches: Batches, steps: int) -> Tensor:
    """Return images of the first batch: fewer if they are large or T is, because their spikes of all steps are held."""
    x = next(iter(batches))
    return x[: max(1, min(SOME, NUMBERS // (steps * x[:1].numel())))]


@torch.no_grad()
def observed(network: fx.GraphModule, batches: Batches, largest: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return for each activation the largest value of ``largest(output)`` over some batches."""
    maxima: dict[str, float] = {}

    def observe(path: str, _: nn.Module, __: Any, output: Tensor) -> None:
        maxima[path] = max(maxima.get(path, 0.0), float(largest(output)))

    hooks = [network.get_submodule(path).register_forward_hook(partial(observe, path)) for path in activations(network)]
    try:
        with evaluating(network):
            for batch in batches:
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return maxima


def rates(
    network: fx.GraphModule, thresholds: Mapping[str, float], steps: int, rule: FiringRule = RATE
) -> SpikingNetwork:
    """Return a spiking network whose rates over T steps are the activations: input and biases are on at every step.

    In the units of `SpikingNetwork`, in which the spikes add up to the activation, thresholds are θ / T, and 1 / T of
    the input comes at each step. Scaling both changes no spike. The read-out after t steps is t / T of the mean over
    these t steps, so the largest output is that of the mean.
    """
    network = copy.deepcopy(network)
    for path in activations(network):
        reference = empty_like(network)
        quantizer = Quantizer(steps, offset=rule.precharge or 0.0).to(reference.device, reference.dtype)
        quantizer.set_step_size(max(thresholds[path], 1e-6) / steps)
        network.set_submodule(path, quantizer)
    return to_spiking(network, steps, replace(rule, precharge=rule.precharge or 0.0))
