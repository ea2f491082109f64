"""A start of a spiking network: its neurons begin as a first run of another network leaves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from qffs.functional.neuron import NeuronState
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import Observer, State, advance

Shift = Callable[[Tensor, Tensor], Tensor]
"""From a neuron's potential after a first run, in thresholds, and its count: by how many its next one begins higher."""


@dataclass(frozen=True)
class FirstRun:
    """Neurons begin as a run of another network says, ``first``, over ``first.schedule.steps`` steps of each image."""

    first: SpikingNetwork
    shift: Shift

    def states(
        self, network: SpikingNetwork, inputs: tuple[Tensor, ...], observer: Observer | None
    ) -> dict[str, NeuronState]:
        """Return the neurons' states after the first run, shifted, and at rest but for that."""
        _, after = advance(self.first.graph, State(inputs), self.first.schedule.weights, observer)
        θ = {path: neuron.threshold for path, neuron in self.first.neurons()}
        states = {}
        for path, neuron in network.neurons():
            potential, sent = after.neurons[path]
            rest = neuron.rest(potential)
            raised = self.shift(potential / θ[path], sent) * neuron.threshold
            states[path] = NeuronState(rest.potential + raised, rest.sent)
        return states
