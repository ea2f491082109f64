"""SNN calibration: thresholds with the least error at a latency, and potentials that make up for what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.functional.neuron import NeuronState
from qffs.graph.replace import activations
from qffs.nn.inspect import evaluating
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import Observer, Walk
from qffs.studies.methods.initial_potential import Begun
from qffs.studies.methods.method import RATE, RELU, SOME, Batches, Method, rates, some
from qffs.studies.methods.thresholds import best


class Shifted(Begun):
    """A spiking network whose neurons begin higher, or lower, by channel: ``[1, C, ...]`` in the network's units."""

    def __init__(self, network: SpikingNetwork, shifts: Mapping[str, Tensor]) -> None:
        super().__init__(network)
        self.shifts = dict(shifts)

    def begun(self, inputs: tuple[Tensor, ...], observer: Observer | None) -> dict[str, NeuronState]:
        """At rest, and shifted."""
        del inputs, observer
        return {path: _shifted(neuron, self.shifts[path]) for path, neuron in self.neurons()}


@torch.no_grad()
def spiking(network: fx.GraphModule, batches: Batches, steps: int) -> SpikingNetwork:
    """Thresholds, then layer by layer the mean gap to the network's activations as a potential, by channel."""
    given = some(batches, steps)
    wanted: dict[str, Tensor] = {}

    def observe(path: str, _: nn.Module, __: Any, out: Tensor) -> None:
        wanted[path] = out

    sites = activations(network)
    hooks = [network.get_submodule(path).register_forward_hook(partial(observe, path)) for path in sites]
    with evaluating(network):
        network(given)
    for hook in hooks:
        hook.remove()
    thresholds = {path: best(wanted[path], steps) for path in sites}
    snn = rates(network, thresholds, steps, replace(RATE, precharge=0.5))
    calibrating = _Calibrating(snn, given, wanted)
    calibrating.run()
    return Shifted(snn, calibrating.shifts)


class _Calibrating(Walk):
    """The simulation, layer by layer, each run again with a potential that makes up for the gap that it left."""

    def __init__(self, snn: SpikingNetwork, x: Tensor, wanted: Mapping[str, Tensor]) -> None:
        super().__init__(snn.graph, snn.begin(x), snn.schedule.weights, None)
        self.wanted, self.shifts = wanted, dict[str, Tensor]()

    def _spiking(self, node: fx.Node) -> Tensor:
        super()._spiking(node)
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        sent = self.next.neurons[path].sent * neuron.threshold
        self.shifts[path] = _gap(self.wanted[path], sent)
        self.state.neurons[path] = _shifted(neuron, self.shifts[path])
        return super()._spiking(node)


def _shifted(neuron: Neuron, by: Tensor) -> NeuronState:
    rest = neuron.rest(by)
    return NeuronState(rest.potential + by, rest.sent)


def _gap(wanted: Tensor, sent: Tensor) -> Tensor:
    """The mean difference, by channel where there are channels."""
    over = [d for d in range(wanted.dim()) if d != 1]
    return (wanted.to(sent) - sent).mean(over, keepdim=True)


CALIBRATION = Method(
    "calibration",
    "SNN calibration",
    "Li et al., ICML 2021",
    "thresholds with the least error at T, and the mean gap to the activations made up for, layer by layer",
    RELU,
    spiking,
    by_latency=True,
    notes=f"the gap of at most {SOME} images is a potential before the first step; weights are not calibrated",
)
