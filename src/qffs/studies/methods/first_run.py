"""A start of a spiking network: its neurons begin as a first run of another network leaves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from qffs.functional.neuron import NeuronState
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import Observer, State, advance

Shift = Callable[[Tensor, Tensor], Tensor]
"""The function from a neuron's potential and count after a first run to the shift of its potential, in thresholds."""


@dataclass(frozen=True)
class FirstRun:
    """A start of neurons after a run of another network, ``first``, over ``first.schedule.steps`` steps per image."""

    first: SpikingNetwork
    shift: Shift

    def states(
        self, network: SpikingNetwork, inputs: tuple[Tensor, ...], observer: Observer | None
    ) -> dict[str, NeuronState]:
        """Return the states at rest with potentials that are shifted as the first run decides."""
        _, after = advance(self.first.operations, State(inputs), self.first.schedule.weights, observer)
        θ = {path: neuron.threshold for path, neuron in self.first.neurons()}
        states = {}
        for path, neuron in network.neurons():
            potential, sent = after.neurons[path]
            rest = neuron.rest(potential)
            shift = self.shift(potential / θ[path], sent) * neuron.threshold
            states[path] = NeuronState(rest.potential + shift, rest.sent)
        return states
