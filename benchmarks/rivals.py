"""Simulation of the same networks by other libraries, in the form that their own converters build.

Convolutions are those of the spiking network, batch norms folded, channels last. Each neuron is replaced by the
library's cheapest integrate-and-fire neuron that subtracts its threshold, followed by a multiplication by the
threshold. The input and the biases come at every step (rate coding). The predictions of these networks are not
compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork

Run = Callable[[Tensor, int], Tensor]
"""A function from images and T to the mean output, ``[B, classes]``."""


def with_neurons(snn: SpikingNetwork, make: Callable[[float], nn.Module]) -> fx.GraphModule:
    """Return the network with each neuron replaced by a module that ``make`` builds from the threshold."""
    network = fx.GraphModule(snn.graph, copy.deepcopy(snn.graph.graph))
    for node in network.graph.nodes:
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), Neuron):
            neuron = network.get_submodule(str(node.target))
            assert isinstance(neuron, Neuron)
            node.target = f"{node.name}_instead"
            network.add_submodule(node.target, make(float(neuron.threshold.mean())))
    network.delete_all_unused_submodules()
    network.recompile()
    place = {"device": snn.empty_like.device, "memory_format": torch.channels_last}
    return network.eval().to(**place)  # type: ignore[call-overload,no-any-return]


class Scaled(nn.Module):
    """A neuron whose spikes are multiplied by its threshold."""

    def __init__(self, neuron: nn.Module, threshold: float) -> None:
        super().__init__()
        self.neuron, self.threshold = neuron, threshold

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled spikes for the input of one step, ``[B, ...]``."""
        spikes: Tensor = self.neuron(x)
        return spikes * self.threshold


class AllSteps(Scaled):
    """A scaled neuron for all steps at once, which for other layers are part of the batch."""

    steps = 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled spikes for inputs ``[T * B, ...]``."""
        return super().forward(x.unflatten(0, (AllSteps.steps, -1))).flatten(0, 1)


def spikingjelly_single_step(snn: SpikingNetwork) -> Run:
    """Return a run in SpikingJelly that takes one step of the whole network after the other."""
    library, functional = _spikingjelly()
    network = with_neurons(snn, lambda threshold: Scaled(_integrate_and_fire(library, threshold, "s"), threshold))

    def run(x: Tensor, steps: int) -> Tensor:
        functional.reset_net(network)
        return sum((network(x) for _ in range(steps)), torch.zeros(())) / steps

    return run


def spikingjelly_multi_step(snn: SpikingNetwork) -> Run:
    """Return a run in SpikingJelly that takes all steps of one layer after the other."""
    library, functional = _spikingjelly()
    network = with_neurons(snn, lambda threshold: AllSteps(_integrate_and_fire(library, threshold, "m"), threshold))

    def run(x: Tensor, steps: int) -> Tensor:
        functional.reset_net(network)
        AllSteps.steps = steps
        every = x.repeat(steps, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        mean: Tensor = network(every).unflatten(0, (steps, -1)).mean(0)
        return mean

    return run


def snntorch(snn: SpikingNetwork) -> Run:
    """Return a run in snnTorch: a plain loop over time, where neurons store their own state."""
    library = import_module("snntorch")
    make = partial(library.Leaky, beta=1.0, reset_mechanism="subtract", init_hidden=True)
    network = with_neurons(snn, lambda threshold: Scaled(make(threshold=threshold), threshold))
    neurons = [module.neuron for module in network.modules() if isinstance(module, Scaled)]

    def run(x: Tensor, steps: int) -> Tensor:
        for neuron in neurons:
            neuron.reset_mem()
        return sum((network(x) for _ in range(steps)), torch.zeros(())) / steps

    return run


def _spikingjelly() -> tuple[Any, Any]:
    return (import_module(f"spikingjelly.activation_based.{name}") for name in ("neuron", "functional"))  # type: ignore[return-value]


def _integrate_and_fire(library: Any, threshold: float, step_mode: str) -> nn.Module:
    neuron: nn.Module = library.IFNode(v_threshold=threshold, v_reset=None, step_mode=step_mode)
    return neuron


RIVALS: dict[str, tuple[str, Callable[[SpikingNetwork], Run]]] = {
    "SpikingJelly, step by step": ("spikingjelly", spikingjelly_single_step),
    "SpikingJelly, layer by layer": ("spikingjelly", spikingjelly_multi_step),
    "snnTorch": ("snntorch", snntorch),
}
"""The package and the function that builds a run, by name."""
