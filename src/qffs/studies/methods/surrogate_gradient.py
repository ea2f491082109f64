"""What methods of direct training have in common: layers of SpikingJelly's neurons, and how they become ours.

SpikingJelly is imported where such a layer is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from qffs.graph.replace import activations
from qffs.spiking.network import SpikingNetwork
from qffs.studies.methods.method import RATE, Batches, rates

EXTRA = "spikingjelly"
Surrogate = Callable[[Tensor], Tensor]


def neurons(steps: int, surrogate: Callable[[], Surrogate], **options: Any) -> Callable[[float | None], nn.Module]:
    """What makes a layer of neurons in the place of a ReLU; options: those of `spikingjelly_neurons.Neurons`."""

    def make(clip: float | None) -> nn.Module:
        del clip
        from qffs.studies.methods.spikingjelly_neurons import Neurons

        return Neurons(steps, surrogate(), **options)

    return make


@torch.no_grad()
def deviation(module: Any, x: Tensor) -> None:
    """θ is the standard deviation of what arrives.

    That is what a batch norm from which training begins makes it where thresholds are 1, and what one that depends on
    thresholds makes it anywhere; here batch norms have been trained before.
    """
    module.threshold.fill_(float(x.std()))


def spiking(reset: Literal["subtract", "zero"]) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    """How a network that was trained becomes one of this library: the same thresholds, leaks and resets."""
    rule = replace(RATE, reset=reset)

    def made(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
        modules: dict[str, Any] = {path: network.get_submodule(path) for path in activations(network)}
        snn = rates(network, {path: module.height for path, module in modules.items()}, steps, rule)
        for path, neuron in snn.neurons():
            neuron.rule = replace(neuron.rule, decay=modules[path].decay)
        return snn

    return made
