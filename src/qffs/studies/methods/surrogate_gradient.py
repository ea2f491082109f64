"""The parts that methods of direct training share: layers of SpikingJelly's neurons, and their conversion to ours.

SpikingJelly is imported when a layer is made.
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
    """Return the function that makes a layer of neurons; options: those of `spikingjelly_neurons.Neurons`."""

    def make(clip: float | None) -> nn.Module:
        del clip
        from qffs.studies.methods.spikingjelly_neurons import Neurons

        return Neurons(steps, surrogate(), **options)

    return make


@torch.no_grad()
def deviation(module: Any, x: Tensor) -> None:
    """Set θ to the standard deviation of the currents x.

    A batch norm that is not yet trained makes that deviation 1 for thresholds of 1, and a batch norm that depends on
    the threshold makes it θ. Here batch norms are already trained, so the threshold follows them.
    """
    module.threshold.fill_(float(x.std()))


def spiking(reset: Literal["subtract", "zero"]) -> Callable[[fx.GraphModule, Batches, int], SpikingNetwork]:
    """Return the function from a trained network to a spiking one with the same thresholds, leaks and resets."""
    rule = replace(RATE, reset=reset)

    def converted(network: fx.GraphModule, _: Batches, steps: int) -> SpikingNetwork:
        modules: dict[str, Any] = {path: network.get_submodule(path) for path in activations(network)}
        snn = rates(network, {path: module.height for path, module in modules.items()}, steps, rule)
        for path, neuron in snn.neurons():
            neuron.rule = replace(neuron.rule, decay=modules[path].decay)
        return snn

    return converted
