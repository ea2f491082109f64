"""SNN calibration: thresholds with the least error at a latency, and potentials that cancel the mean error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.functional.neuron import NeuronState
from qffs.graph.replace import activations
from qffs.graph.site import Kind, site
from qffs.nn.inspect import evaluating
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import Observer, Reference
from qffs.spiking.walk import walk
from qffs.studies.methods.method import RATE, RELU, SOME, Batches, Method, rates, some
from qffs.studies.methods.thresholds import best


@dataclass(frozen=True)
class Shifted:
    """A start of neurons with potentials shifted by layer and channel: ``[1, C, ...]`` in the network's units."""

    shifts: Mapping[str, Tensor]

    def states(
        self, network: SpikingNetwork, inputs: tuple[Tensor, ...], observer: Observer | None
    ) -> dict[str, NeuronState]:
        """Return the states at rest with shifted potentials."""
        del inputs, observer
        return {path: _shifted(neuron, self.shifts[path]) for path, neuron in network.neurons()}


@torch.no_grad()
def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
    """Return the spiking network with these thresholds and potentials.

    A potential is the mean difference, by channel, between a layer's activations in the network and its output in the
    spiking network with the potentials of the layers before it.
    """
    x = some(batches, steps)
    targets: dict[str, Tensor] = {}

    def observe(path: str, _: nn.Module, __: Any, out: Tensor) -> None:
        targets[path] = out

    sites = activations(network)
    hooks = [network.get_submodule(path).register_forward_hook(partial(observe, path)) for path in sites]
    with evaluating(network):
        network(x)
    for hook in hooks:
        hook.remove()
    thresholds = {path: best(targets[path], steps) for path in sites}
    snn = rates(network, thresholds, steps, replace(RATE, precharge=0.5))
    return SpikingNetwork(snn.graph, snn.schedule, Shifted(_shifts(snn, x, targets)))


def _shifts(snn: SpikingNetwork, x: Tensor, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return for each layer the potential that cancels its mean error; layers are run in order."""
    walked = Reference(snn.operations, snn.initial_state(x), snn.schedule.weights)
    shifts: dict[str, Tensor] = {}

    def calibrate(node: fx.Node) -> None:
        if site(node).kind is not Kind.SPIKING:
            return
        path = str(node.target)
        neuron = snn.graph.get_submodule(path)
        assert isinstance(neuron, Neuron)
        walked.spiking(node)
        shifts[path] = _mean_error(targets[path], walked.next.neurons[path].sent * neuron.threshold)
        walked.state.neurons[path] = _shifted(neuron, shifts[path])

    walk(snn.operations, (x,), walked, before=calibrate)
    return shifts


def _shifted(neuron: Neuron, by: Tensor) -> NeuronState:
    rest = neuron.rest(by)
    return NeuronState(rest.potential + by, rest.sent)


def _mean_error(target: Tensor, output: Tensor) -> Tensor:
    """Return the mean of ``target - output`` over all dimensions but 1, the channels."""
    over = [d for d in range(target.dim()) if d != 1]
    return (target.to(output) - output).mean(over, keepdim=True)


CALIBRATION = Method(
    "calibration",
    "SNN calibration",
    "Li et al., ICML 2021",
    "thresholds with the least error at T; the mean gap to the activations is corrected layer by layer",
    RELU,
    spiking,
    by_latency=True,
    notes=f"the correction, from at most {SOME} images, is a potential before step 1; weights are not calibrated",
)
