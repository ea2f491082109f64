"""What every method has in common: how it trains, and how what it trained is made to spike."""

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
"""How many images find thresholds where each step of each is looked at, and how many numbers of the input at most."""
RATE = FiringRule(negative_spikes=False, cap=False, precharge=0.0)
"""Plain integrate-and-fire neurons, whose rates stand for activations."""


@dataclass(frozen=True)
class Activation:
    """What stands where the network had a ReLU while a method trains it.

    ``make``: a module, given where the ReLU was clipped from above, if it was; ``start``: sets it from what reaches it
    in a batch; ``penalty``: what is added to the loss, of all such modules; ``finish``: a second training, on a few
    batches, of the network that was trained.

    Of direct training: ``steps``, over which the network spikes while it trains; ``prepare``: the network that trains,
    from the one in full precision; ``adapt``: called with the network that trains, its modules, and some inputs and
    labels, before the first epoch and after each; ``training``: what is otherwise than in the recipe; ``extra``: what
    has to be installed, as an extra of the library.
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
        """Raise `InvalidArgument` where what it needs is not installed."""
        if self.extra and find_spec(self.extra) is None:
            raise InvalidArgument(
                f"{self.name}: this needs {self.extra}, which is not installed: pip install 'qffs[{self.extra}]'"
            )


RELU = Activation("ReLU", lambda clip: nn.ReLU() if clip is None else nn.Hardtanh(0.0, clip))
"""The ReLU itself, or a clipped one."""


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
    """A copy of a network with an activation's module in the place of every ReLU.

    Raises `NotConvertible` where it is to be trained directly and cannot be.
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
        made = activation.make(quantizer.clip).to(quantizer.step_size.device, quantizer.step_size.dtype)
        network.set_submodule(path, made.train(network.training))
    return network


def _check_linear(network: fx.GraphModule) -> None:
    """Raise where an operator does not do on spikes of each step what it does on counts, as pooling the largest."""
    for node in network.graph.nodes:
        if site(node).kind is Kind.DIFFERENCED:
            raise NotConvertible(
                "direct training takes networks that are linear but for their ReLUs, with average pooling: "
                f"this one has {node.name} ({label(node, network)})"
            )


class OverTime(nn.Module):
    """A network that spikes: its inputs come at each of T steps, all in one batch, and its outputs are averaged."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.steps = network, steps

    def forward(self, *inputs: Tensor) -> Tensor:
        """The mean over the steps."""
        out: Tensor = self.network(*(x.repeat(self.steps, *[1] * (x.dim() - 1)) for x in inputs))
        mean: Tensor = out.unflatten(0, (self.steps, -1)).mean(0)
        return mean


def over_time(network: fx.GraphModule, activation: Activation) -> nn.Module:
    """What trains: the network itself, or where it spikes while it trains, the network over its steps."""
    return OverTime(network, activation.steps) if activation.steps else network


@torch.no_grad()
def started(network: fx.GraphModule, activation: Activation, batch: Tensor) -> fx.GraphModule:
    """The network, its activations set from what reaches them in a batch, those before them in force."""
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
    """Images of the first batch, fewer of large ones and for many steps: all that they send over T steps is held."""
    x = next(iter(batches))
    return x[: max(1, min(SOME, NUMBERS // (steps * x[:1].numel())))]


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
        reference = empty_like(network)
        quantizer = Quantizer(steps, offset=rule.precharge or 0.0).to(reference.device, reference.dtype)
        quantizer.set_step_size(max(thresholds[path], 1e-6) / steps)
        network.set_submodule(path, quantizer)
    return to_spiking(network, steps, replace(rule, precharge=rule.precharge or 0.0))
