"""The spiking network: a folded graph with neurons, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qffs.accumulate import accumulated, covers
from qffs.errors import Diverged, InvalidArgument, QffsError
from qffs.functional.fire import NeuronState
from qffs.graph import images
from qffs.graph.annotate import annotate
from qffs.graph.describe import Description, describe, rebuild
from qffs.graph.rules import Kind
from qffs.levels import Schedule
from qffs.nn.neuron import Neuron
from qffs.simulate import Observer, State, advance

T = TypeVar("T")

LONGEST = 1024
"""The most steps of a run that goes on until the network has settled."""


class SpikingNetwork(nn.Module):
    """A network of signed integrate-and-fire neurons, converted from a quantised network by `qffs.to_spiking`.

    ``snn(x, steps=T)`` returns what is read out after each step, accumulated up to it, ``[T, B, ...]`` in the
    quantised network's units: the last entry is what the quantised network itself computes, once every neuron has
    settled. No state is kept between calls.
    """

    def __init__(self, graph: fx.GraphModule, schedule: Schedule) -> None:
        super().__init__()
        self.graph = graph
        self.schedule = schedule
        annotate(graph)
        cut = (n.name for n in graph.graph.nodes if any(rows != 1 for _, rows in images.places(n)))
        self._cuts = next(cut, None)

    def __reduce__(self) -> Any:
        # A pickled graph would forget what its nodes are: it goes as its description, as in a checkpoint.
        return _restore, (describe(self.graph), self.graph.state_dict(), self.schedule)

    def forward(self, *inputs: Tensor, steps: int) -> Any:
        """The accumulated read-out ``[T, B, ...]`` (in the network's own nesting where it has several outputs)."""
        readout, _ = self.run(*inputs, steps=steps)
        return readout

    def readout(self, *inputs: Tensor, steps: int, observer: Observer | None = None) -> Any:
        """What `forward` returns, and reports to ``observer`` as `run` does, but all steps at once and faster.

        Sums are of what has accumulated, and not of increments, so that they may be rounded otherwise: in float32 a
        potential that ends within rounding of the threshold can fire at another step. Networks that turn or cut the
        images of a batch (attention, windows), or hold several tensors in one value, run as in `run`.
        Raises as `run` does.
        """
        charge = self.schedule.over(steps)
        if not covers(self.graph, steps):
            return self.run(*inputs, steps=steps, observer=observer)[0]
        return self._refusing(inputs, lambda: accumulated(self.graph, self.begin(*inputs), charge, observer))

    def run(
        self,
        *inputs: Tensor,
        steps: int | None,
        chunk: int | None = None,
        observer: Observer | None = None,
        longest: int = LONGEST,
    ) -> tuple[Any, State]:
        """The accumulated read-out ``[T, B, ...]`` and the final state.

        steps: T, at least the schedule's D; None goes on until no neuron fires any more, or for ``longest`` steps;
        chunk: how many steps every layer is advanced by before the next layer (T by default; 1 is step-wise
        simulation and needs the least memory); observer: see `Observer`.
        Raises `InvalidArgument` where T < D or the inputs do not fit, and `Diverged` where the input is not finite.
        """
        charge = self.schedule.over(longest if steps is None else steps)
        if chunk is None:
            chunk = self.schedule.steps if steps is None else len(charge)
        if not isinstance(chunk, int) or chunk < 1:
            raise InvalidArgument(f"chunk must be a whole number of steps, at least 1, not {chunk!r}")
        state = self.begin(*inputs)
        parts = []
        for start in range(0, len(charge), chunk):
            part = charge[start : start + chunk]
            increments, state = self._refusing(inputs, partial(advance, self.graph, state, part, observer))
            parts.append(increments)
            if steps is None and start + chunk >= self.schedule.steps and self.settled(state):
                break
        return fx.node.map_aggregate(_zip(parts), _accumulated), state

    def _refusing(self, inputs: tuple[Tensor, ...], simulated: Callable[[], T]) -> T:
        """What a simulation returns; inputs that the network cannot take are refused in a sentence."""
        try:
            return simulated()
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, (QffsError, torch.OutOfMemoryError)):
                raise
            given = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
            raise InvalidArgument(f"the network does not run on inputs of {given}: {error}") from error

    def begin(self, *inputs: Tensor) -> State:
        """The state before the first step.

        Raises `InvalidArgument` unless there is one tensor an input, all with the same batch in dimension 0, and
        `Diverged` where one holds NaN or infinity.
        """
        expected = len(self.graph.graph.find_nodes(op="placeholder"))
        if len(inputs) != expected or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
            raise InvalidArgument(f"the network takes {expected} tensors with a batch in dimension 0, one an input")
        if len({len(x) for x in inputs}) != 1:
            raise InvalidArgument(f"all inputs must have the same batch, not {[len(x) for x in inputs]}")
        self._check_rows(inputs)
        if not all(bool(torch.isfinite(x).all()) for x in inputs):
            raise Diverged("the input holds NaN or infinity")
        return State(inputs)

    def _check_rows(self, inputs: tuple[Tensor, ...]) -> None:
        """Where an image is cut into rows, how many there are was counted on images of the example's size."""
        for x, node in zip(inputs, self.graph.graph.find_nodes(op="placeholder"), strict=True):
            size = tuple(node.meta["shape"][1:])
            if self._cuts is not None and tuple(x.shape[1:]) != size:
                raise InvalidArgument(
                    f"this network cuts each image into rows of the batch (at {self._cuts}), as many as images of "
                    f"{size} have, not of {tuple(x.shape[1:])}: quantise it on an example of this size"
                )

    def neurons(self) -> Iterator[tuple[str, Neuron]]:
        """The layers of neurons with their paths, in the order of computation."""
        for node in self.graph.graph.nodes:
            if node.meta["kind"] is Kind.SPIKING:
                neuron = self.graph.get_submodule(node.target)
                assert isinstance(neuron, Neuron)
                yield node.target, neuron

    def settled(self, state: State) -> bool:
        """Whether no neuron would fire any more if no charge came."""
        return all(_settled(neuron, state.neurons[path]) for path, neuron in self.neurons())


def _restore(description: Description, tensors: dict[str, Tensor], schedule: Schedule) -> SpikingNetwork:
    graph = rebuild(description, tensors)
    graph.load_state_dict({name: tensors[name] for name in graph.state_dict()}, assign=True)  # what it calls
    return SpikingNetwork(graph.eval().requires_grad_(False), schedule)


def _settled(neuron: Neuron, state: NeuronState) -> bool:
    spikes, _ = neuron(state, None, None, charge=(0.0,))
    return not bool(spikes.any())


def _zip(parts: list[Any]) -> Any:
    """The parts of each output, joined along time; outputs in the network's own nesting."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], dict):
        return {key: _zip([part[key] for part in parts]) for key in parts[0]}
    return tuple(_zip([part[index] for part in parts]) for index in range(len(parts[0])))


def _accumulated(increments: Any) -> Any:
    if increments is None:
        return None
    total = torch.zeros_like(increments[0])
    sums = []
    for increment in increments:
        total = total + increment
        sums.append(total)
    return torch.stack(sums)
