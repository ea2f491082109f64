"""The reference simulation: neurons are advanced step by step, from a state that comes in and goes out.

Every edge carries its constant part, which the schedule charges, ``charge[t] * constant`` at step t, and increments
``[T * B, ...]``: what neurons sent, the images of the first step, then those of the second, and so on. A linear
operator is applied to each part apart; a neuron or a differenced operator takes in both and gives increments.

One chunk of T steps is layer-wise simulation, T chunks of one step are step-wise simulation; the code is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, fx

from qffs.functional.difference import DifferenceState, difference
from qffs.functional.neuron import NeuronState
from qffs.graph import batch_axis
from qffs.graph.nested import Nested, beside, mapped, nested
from qffs.graph.site import Kind, site
from qffs.nn.neuron import Neuron
from qffs.spiking.operands import CONSTANT, INCREMENTS, Operands, call, whole, wide
from qffs.spiking.operations import Operations
from qffs.spiking.walk import Edge, walk

Observer = Callable[[str, Tensor, NeuronState], None]
"""Called after each layer of neurons, in the order of computation and once for each chunk of steps, with

- the path of the layer in the network, as ``snn.neurons()`` gives it;
- its spikes ``[T, B, ...]``, one row for each step of the chunk: -1, 0 or 1 (other whole numbers for a rule with
  ``multi_spike``);
- its state after the chunk, a `qffs.functional.neuron.NeuronState`: ``potential`` u, in the units of the threshold, and
  ``sent`` Z, the spikes sent so far, on balance, both ``[B, ...]``.
"""


@dataclass
class State:
    """Where a simulation stands between two steps.

    ``inputs``: the analog inputs ``[B, ...]``; ``neurons``: by the path of a layer, potential and count of its neurons
    (`qffs.functional.neuron.NeuronState`), empty before the first step; ``differenced``: by the name of a node, what a
    differenced operator has accumulated; ``constants``: by the name of a node, the constant parts that later steps
    need; ``begun``: whether a step has been taken with these inputs, so that the constant parts are known.
    """

    inputs: tuple[Tensor, ...]
    constants: dict[str, Nested] = field(default_factory=dict)
    neurons: dict[str, NeuronState] = field(default_factory=dict)
    differenced: dict[str, DifferenceState] = field(default_factory=dict)
    begun: bool = False

    def after(self, state: State) -> State:
        """Return these inputs with what layers carry in another state."""
        return replace(self, neurons=state.neurons, differenced=state.differenced)

    def of(self, images: Tensor) -> State:
        """Return the state of some images, by a mask ``[B]``, of a network whose signals hold one row per image."""

        def rows(value: Nested) -> Nested:
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


@torch.no_grad()
def advance(
    operations: Operations, state: State, charge: Sequence[float], observer: Observer | None = None
) -> tuple[Nested, State]:
    """Advance every layer of a network by ``len(charge)`` steps.

    charge: these steps' weights of the schedule. Returned: the increments read out, ``[T, B, ...]`` in the type sums
    are done in and in the network's own nesting, and the next state.
    """
    reference = Reference(operations, state, charge, observer)
    return walk(operations, state.inputs, reference), reference.next


def accumulate(increments: Nested) -> Nested:
    """Return increments ``[T, ...]``, in any nesting, added up to each step."""
    return mapped(increments, lambda leaf: leaf.cumsum(0))


class Reference:
    """The policy of the reference simulation: every node is advanced by all steps of a chunk.

    ``next`` is the state after the walk; ``state`` the one before, in which an observer may put a neuron's potential
    before its layer is computed.
    """

    def __init__(
        self, operations: Operations, state: State, charge: Sequence[float], observer: Observer | None = None
    ) -> None:
        self.operations, self.network = operations, operations.network
        self.state, self.charge, self.observer = state, tuple(charge), observer
        self.steps, self.images = len(self.charge), state.inputs[0].shape[0]  # not `len`: an export keeps it open
        self.next = State(state.inputs, dict(state.constants), begun=True)
        self.values: dict[fx.Node, Edge[Nested]] = {}
        self._operands = Operands(
            operations, self.values.__getitem__, self.images, self.steps, rows=self.steps * self.images
        )

    def plain(self, node: fx.Node) -> Edge[Nested]:
        """Return the value of what is no signal, for one step and for all."""
        return self._operands.plain(node)

    def linear(self, node: fx.Node) -> Edge[Nested]:
        """Return a linear operator applied to each part apart."""
        known = self.state.begun
        constant = self.state.constants.get(node.name) if known else self._operands.linear(node, CONSTANT)
        self._keep(node, constant)
        return Edge(constant, self._operands.linear(node, INCREMENTS))

    def spiking(self, node: fx.Node) -> Edge[Nested]:
        """Return what a layer of neurons sends: spikes times the threshold."""
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        (read,) = self.operations.of[node].reads
        state = self.state.neurons.get(path) or neuron.rest(self.zeros(read))
        spikes, after = neuron(state, *self.arrived(read), self.charge)
        self.next.neurons[path] = after
        if self.observer is not None:
            self.observer(path, spikes, after)
        sent: Tensor = spikes * neuron.threshold.to(spikes.dtype)
        return Edge(None, batch_axis.fold_steps(sent.to(neuron.threshold.dtype), self.operations.of[node].dimension))

    def differenced(self, node: fx.Node) -> Edge[Nested]:
        """Return ``g(X_t) - g(X_{t-1})``; of constants alone g is a constant itself, computed once."""
        of = self.operations.of
        read = of[node].sources
        alone = all(self.values[n].increments is None for n in read)
        others = CONSTANT if alone else INCREMENTS

        def g(*arguments: Tensor) -> Nested:
            of_read = dict(zip(read, arguments, strict=True))
            return call(self.network, node, lambda n: of_read[n] if n in of_read else self.values[n][others])

        if alone:
            constants = [whole(self.values[n].constant, of[n], self.images) for n in read]
            constant = self.state.constants.get(node.name) if self.state.begun else g(*constants)
            self._keep(node, constant)
            return Edge(constant, None)
        state = self.state.differenced.get(node.name) or DifferenceState(
            tuple(wide(self.zeros(n)).movedim(of[n].dimension, 0) for n in read), None
        )
        value: Nested = None

        def images_first(*arguments: Tensor) -> tuple[Tensor, ...]:
            """The same g, from tensors and to tensors whose images are in dimension 0."""
            nonlocal value
            value = g(*(x.movedim(0, of[n].dimension) for n, x in zip(read, arguments, strict=True)))
            return tuple(x.movedim(d, 0) for x, (d, _) in beside(value, site(node).batch))

        arrived = [self.arrived(n, images_first=True) for n in read]
        differences, self.next.differenced[node.name] = difference(images_first, state, arrived, self.charge)
        dimensions = [d for _, (d, _) in beside(value, site(node).batch)]
        fold = partial(batch_axis.fold_steps, images_first=True)
        return Edge(None, nested(value, map(fold, differences, dimensions)))

    def read_out(self, node: fx.Node) -> Tensor:
        """Return what arrives at an output at each step, ``[T, B, ...]``."""
        constant, increments = self.arrived(node)
        zeros = wide(self.zeros(node))
        total = torch.zeros_like(zeros).expand(self.steps, *zeros.shape) if increments is None else wide(increments)
        if constant is None:
            return total
        charged = zip(total, self.charge, strict=True)
        # Where there is no charge, nothing is added, and not 0 times a mask's infinity.
        return torch.stack([sent + weight * constant if weight else sent for sent, weight in charged])

    def arrived(self, node: fx.Node, images_first: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """Return the parts of a signal, increments with time as dimension 0: ``[T, B, ...]``.

        images_first: the images in dimension 0 of a step, wherever the network holds them.
        """
        constant, increments = self.values[node]
        operation = self.operations.of[node]
        d = operation.dimension
        if constant is not None:
            all_images = constant if constant.shape[d] == 1 else whole(constant, operation, self.images)
            constant = all_images.movedim(d, 0) if images_first else all_images
        return constant, None if increments is None else batch_axis.unfold_steps(
            increments, d, self.steps, images_first
        )

    def zeros(self, node: fx.Node) -> Tensor:
        """Return zeros of the shape ``[B, ...]`` of one step of a signal."""
        constant, increments = self.arrived(node)
        if increments is not None:
            return torch.zeros_like(increments[0])
        assert constant is not None
        return torch.zeros_like(whole(constant, self.operations.of[node], self.images))

    def _keep(self, node: fx.Node, constant: Nested) -> None:
        """Remember the constant part of a signal that later chunks read again."""
        readers = [self.operations.of[user] for user in node.users]
        if any(each.kind is not Kind.LINEAR or len(each.reads) > 1 for each in readers):
            self.next.constants[node.name] = constant
