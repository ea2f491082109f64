"""A spiking network whose neurons begin with potentials of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from qffs.errors import CheckpointError, InvalidArgument
from qffs.functional.neuron import NeuronState
from qffs.spiking import backends
from qffs.spiking.backends import Counter
from qffs.spiking.network import OWN, SpikingNetwork
from qffs.spiking.step_by_step import Observer, State


class Begun(SpikingNetwork):
    """A network whose neurons begin as `begun` says; ``first``: what is run before, of each image, to find it."""

    def __init__(self, network: SpikingNetwork, first: SpikingNetwork | None = None) -> None:
        super().__init__(network.graph, network.schedule)
        self.first = first

    def begun(self, inputs: tuple[Tensor, ...], observer: Observer | None) -> dict[str, NeuronState]:
        """By layer, the state before the first step; the observer sees what is simulated to find it."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        raise CheckpointError(f"a {type(self).__name__} network is more than its graph: it cannot be saved or copied")

    def begin(self, *inputs: Tensor) -> State:
        """The state before the first step that is read out."""
        return self._begin(super().begin(*inputs), None)

    def readout(
        self,
        *inputs: Tensor,
        steps: int,
        precision: str = OWN,
        backend: str | None = None,
        counter: Counter | None = None,
    ) -> Any:
        """The accumulated read-out; spikes of steps before are counted with those of the first one."""
        if precision != OWN:
            raise InvalidArgument(f"a {type(self).__name__} network is run in its own precision, not {precision!r}")

        def begin(given: tuple[Tensor, ...]) -> State:
            return self._begin(State(given), None if counter is None else partial(_count_first, counter, steps))

        charge = self.schedule.over(steps)
        super().begin(*inputs)
        found = backends.chosen(backend, self.graph, steps, self.empty_like)
        return self.refusing(inputs, lambda: backends.run(found, self.graph, inputs, charge, counter, begin))

    def _begin(self, state: State, observer: Observer | None) -> State:
        state.neurons.update(self.begun(state.inputs, observer))
        return state


def _count_first(counter: Counter, steps: int, path: str, spikes: Tensor, state: NeuronState) -> None:
    """Tell a counter of a run before as if all of it had been at the first step."""

    def count(layer: str, sent: Tensor) -> None:
        first = torch.zeros(2, steps, dtype=sent.dtype, device=sent.device)
        first[:, 0] = sent.sum(1)
        counter(layer, first)

    backends.count_spikes(count, path, spikes, state)
