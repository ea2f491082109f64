"""Where a simulation stands between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from qffs.functional.difference import DifferenceState
from qffs.functional.neuron import NeuronState


@dataclass
class State:
    """Where a simulation stands: the input, the constant parts still needed, and what layers carry from step to step.

    ``constants`` and ``differenced`` by the name of a node, ``neurons`` by the path of a layer.
    """

    inputs: tuple[Tensor, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    neurons: dict[str, NeuronState] = field(default_factory=dict)
    differenced: dict[str, DifferenceState] = field(default_factory=dict)
    begun: bool = False
    """Whether a step has been taken with these inputs, so that the constant parts are known."""

    def after(self, state: State) -> State:
        """These inputs, with what layers carry in another state."""
        return replace(self, neurons=state.neurons, differenced=state.differenced)

    def of(self, images: Tensor) -> State:
        """The state of some images, by a mask ``[B]``, of a network whose signals hold an image a row."""

        def rows(value: Any) -> Any:
            return fx.node.map_aggregate(
                value, lambda leaf: leaf[images] if isinstance(leaf, Tensor) and len(leaf) == len(images) else leaf
            )

        return State(
            rows(self.inputs),
            {name: rows(constant) for name, constant in self.constants.items()},
            {path: NeuronState(*map(rows, neuron)) for path, neuron in self.neurons.items()},
            {name: DifferenceState(*map(rows, each)) for name, each in self.differenced.items()},
            self.begun,
        )
