"""A spiking network whose neurons begin with potentials of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from qffs.backends import Counter, count_spikes
from qffs.errors import CheckpointError
from qffs.functional.fire import NeuronState
from qffs.network import OWN, SpikingNetwork
from qffs.simulate import Observer, advance, summed
from qffs.state import State


class Begun(SpikingNetwork):
    """Neurons begin as `begun` says; it is run by the reference, which alone begins with a state of its own."""

    def begun(self, inputs: tuple[Tensor, ...], observer: Observer | None) -> dict[str, NeuronState]:
        """By layer, the state before the first step; the observer sees what is simulated to find it."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        raise CheckpointError(f"a {type(self).__name__} network is more than its graph: it cannot be saved or copied")

    def begin(self, *inputs: Tensor) -> State:
        """The state before the first step that is read out."""
        state = super().begin(*inputs)
        state.neurons.update(self.begun(inputs, None))
        return state

    def readout(
        self,
        *inputs: Tensor,
        steps: int,
        precision: str = OWN,
        backend: str | None = None,
        counter: Counter | None = None,
    ) -> Any:
        """The accumulated read-out; spikes of steps before are counted with those of the first one."""
        del precision, backend
        before: dict[str, Tensor] = {}

        def count_before(path: str, spikes: Tensor) -> None:
            before[path] = spikes.sum(1)

        def count(path: str, spikes: Tensor) -> None:
            if path in before:
                spikes[:, 0] += before[path]
            if counter is not None:
                counter(path, spikes)

        state = super().begin(*inputs)
        state.neurons.update(self.begun(inputs, partial(count_spikes, count_before)))
        increments, _ = advance(self.graph, state, self.schedule.over(steps), partial(count_spikes, count))
        return summed(increments)
