"""Simulation: the one walk over the graph that advances a spiking network by some time steps.

Every edge carries a pair. Its `constant` part is what comes from the analog input and the biases without passing a
neuron; the schedule charges it, ``charge[t] * constant`` at step t. Its `increments` part is what neurons sent, step by
step. A linear operator is applied to each part apart; a neuron or a differenced operator takes in both and gives
increments.

The walk starts from an explicit state. One chunk of T steps is layer-wise simulation, T chunks of one step are
step-wise simulation, and both are the same code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from qffs.functional.difference import DifferenceState, difference
from qffs.functional.lsq import accumulation_dtype
from qffs.functional.neuron import NeuronState
from qffs.graph import batch_axis
from qffs.graph.call import choosing, name_of, signals
from qffs.graph.nested import beside, nested
from qffs.graph.site import Kind, site
from qffs.nn.neuron import Neuron

Observer = Callable[[str, Tensor, NeuronState], None]
"""Called after each layer of neurons with its path, its spikes ``[T, B, ...]`` in {-1, 0, 1} and its state."""


class Pair(NamedTuple):
    """What an edge carries: ``constant`` ``[B, ...]`` or ``[1, ...]``, ``increments`` ``[T * B, ...]``; None is zero.

    Where the network holds its images in another dimension (``meta["batch"]``), or several rows an image in it, the
    images of one step stand there, and those of all steps one after the other. On an edge that is no signal (a shape,
    a weight) both are the plain value, as each part's tensors have it.
    """

    constant: Any
    increments: Any


@torch.no_grad()
def advance(
    network: fx.GraphModule, state: State, charge: Sequence[float], observer: Observer | None = None
) -> tuple[Any, State]:
    """Advance every layer of an annotated, folded network by ``len(charge)`` steps.

    charge: these steps' weights of the schedule. Returned: the increments read out, ``[T, B, ...]`` in the type sums
    are done in and in the network's own nesting, and the next state.
    """
    walk = Walk(network, state, tuple(charge), observer)
    return walk.run(), walk.next


def summed(increments: Any) -> Any:
    """Increments ``[T, ...]``, in any nesting, added up to each step."""
    return fx.node.map_aggregate(increments, lambda leaf: leaf.cumsum(0) if isinstance(leaf, Tensor) else leaf)


class Walk:
    """One pass over the graph: every node in order, each advanced by all steps of the chunk."""

    def __init__(
        self, network: fx.GraphModule, state: State, charge: tuple[float, ...], observer: Observer | None
    ) -> None:
        self.network, self.state, self.charge, self.observer = network, state, charge, observer
        self.steps, self.batch = len(charge), state.inputs[0].shape[0]
        self.rows = self.steps * self.batch  # of increments, where a node holds one an image
        self.next = State(state.inputs, dict(state.constants), begun=True)
        self.values: dict[fx.Node, Pair] = {}

    def run(self) -> Any:
        """What is read out, in the network's own nesting."""
        inputs = iter(self.state.inputs)
        last_reader = {read: node for node in self.network.graph.nodes for read in node.all_input_nodes}
        for node in self.network.graph.nodes:
            match site(node).kind:
                case Kind.INPUT:
                    pair = Pair(next(inputs), None)
                case Kind.OUTPUT:
                    return fx.node.map_arg(node.args[0], self._read_out)
                case Kind.PLAIN:
                    pair = self._plain(node)
                case Kind.SPIKING:
                    pair = Pair(None, self._spiking(node))
                case Kind.DIFFERENCED:
                    pair = self._differenced(node)
                case Kind.SUM | Kind.JOIN | Kind.LINEAR:
                    pair = self._linear(node)
                case kind:
                    raise AssertionError(f"{node} is {kind}, which no network to simulate holds")
            self.values[node] = pair
            self._keep(node, pair)
            for read in node.all_input_nodes:  # free each value after its last reader
                if last_reader[read] is node:
                    del self.values[read]
        raise AssertionError("a graph without an output")

    def _keep(self, node: fx.Node, pair: Pair) -> None:
        """Remember the constant part of a signal that later chunks read again."""
        if site(node).signal and any(
            site(user).kind is not Kind.LINEAR or len(signals(user)) > 1 for user in node.users
        ):
            self.next.constants[node.name] = pair.constant

    # --- the kinds of node ------------------------------------------------------------------------------------------

    def _plain(self, node: fx.Node) -> Pair:
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.network)
            return Pair(value, value)
        return Pair(self._call(node, 0), self._call(node, 1))

    def _linear(self, node: fx.Node) -> Pair:
        """A linear operator, applied to each part apart; what a part lacks is zero."""
        constant = self._part(node, 0) if not self.state.begun else self.state.constants.get(node.name)
        return Pair(constant, self._part(node, 1))

    def _part(self, node: fx.Node, part: int) -> Any:
        read = signals(node)
        present = [n for n in read if self._value(n, part) is not None]
        if not present and not (part == 0 and self._has_constants(node)):
            return None
        if part == 1 and site(node).kind is Kind.SUM and self._adds_nothing(node, present):
            return self._value(present[0], 1)
        return self._call(node, part)

    def _has_constants(self, node: fx.Node) -> bool:
        """Whether a sum or a join has a tensor among its arguments that is no signal."""
        return site(node).kind in {Kind.SUM, Kind.JOIN} and any(
            isinstance(self.values[n].constant, Tensor) for n in node.all_input_nodes if not site(n).signal
        )

    def _adds_nothing(self, node: fx.Node, present: list[fx.Node]) -> bool:
        """Whether a sum's increments are those of its first operand as they are, not even broadcast."""
        if present != [node.args[0]] or name_of(node) == "rsub":
            return False
        shape = self._value(present[0], 1).shape
        added = (n for n in node.all_input_nodes if n is not present[0])
        others = [n for n in added if site(n).signal or isinstance(self._value(n, 1), Tensor)]  # and no factor
        return all(broadcasts_to(self._call_shape(other), shape) for other in others)

    def _call_shape(self, read: fx.Node) -> tuple[int, ...]:
        """The shape a value without increments has beside increments."""
        constant, increments = self._value(read, 0), self._value(read, 1)
        return batch_axis.shape(constant, read, 1) if site(read).signal else tuple(increments.shape)

    def _spiking(self, node: fx.Node) -> Tensor:
        path = str(node.target)
        neuron = self.network.get_submodule(path)
        assert isinstance(neuron, Neuron)
        (read,) = signals(node)
        state = self.state.neurons.get(path) or neuron.rest(self._at_rest(read))
        spikes, after = neuron(state, *self._arrived(read), self.charge)
        self.next.neurons[path] = after
        if self.observer is not None:
            self.observer(path, spikes, after)
        sent: Tensor = spikes * neuron.threshold.to(spikes.dtype)
        return batch_axis.fold_steps(sent.to(neuron.threshold.dtype), batch_axis.dimension(node))

    def _differenced(self, node: fx.Node) -> Pair:
        """``g(X_t) - g(X_{t-1})``; of constants alone g is a constant itself, computed once."""
        read = list(dict.fromkeys(signals(node)))

        alone = all(self.values[n].increments is None for n in read)

        def g(*arguments: Tensor) -> Any:
            given = dict(zip(read, arguments, strict=True))
            return self._apply(node, lambda n: given[n] if n in given else self.values[n][0 if alone else 1])

        if alone:
            constants = [batch_axis.whole(self.values[n].constant, n, self.batch) for n in read]
            return Pair(self.state.constants.get(node.name) if self.state.begun else g(*constants), None)
        state = self.state.differenced.get(node.name) or DifferenceState(
            tuple(wide(self._at_rest(n)).movedim(batch_axis.dimension(n), 0) for n in read), None
        )
        value: Any = None

        def images_first(*arguments: Tensor) -> tuple[Tensor, ...]:
            """The same g, from tensors and to tensors whose images are in dimension 0."""
            nonlocal value
            value = g(*(x.movedim(0, batch_axis.dimension(n)) for n, x in zip(read, arguments, strict=True)))
            return tuple(x.movedim(d, 0) for x, (d, _) in beside(value, site(node).batch))

        arrived = [self._arrived(n, images_first=True) for n in read]
        differences, self.next.differenced[node.name] = difference(images_first, state, arrived, self.charge)
        dimensions = [d for _, (d, _) in beside(value, site(node).batch)]
        return Pair(
            None, nested(value, map(partial(batch_axis.fold_steps, images_first=True), differences, dimensions))
        )

    def _read_out(self, node: fx.Node) -> Tensor:
        constant, increments = self._arrived(node)
        like = wide(self._at_rest(node))
        total = torch.zeros_like(like).expand(self.steps, *like.shape) if increments is None else wide(increments)
        if constant is None:
            return total
        charged = zip(total, self.charge, strict=True)
        # Where there is no charge, nothing is added, and not 0 times a mask's infinity.
        return torch.stack([sent + weight * constant if weight else sent for sent, weight in charged])

    # --- arguments --------------------------------------------------------------------------------------------------

    def _arrived(self, node: fx.Node, images_first: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """The parts of a signal, increments with time as dimension 0: ``[T, B, ...]``, or the images where they are."""
        constant, increments = self.values[node]
        d = batch_axis.dimension(node)
        if constant is not None:
            all_images = constant if constant.shape[d] == 1 else batch_axis.whole(constant, node, self.batch)
            constant = all_images.movedim(d, 0) if images_first else all_images
        return constant, None if increments is None else batch_axis.unfold_steps(
            increments, d, self.steps, images_first
        )

    def _at_rest(self, node: fx.Node) -> Tensor:
        """Zeros of the shape ``[B, ...]`` of one step of a signal."""
        constant, increments = self._arrived(node)
        if increments is not None:
            return torch.zeros_like(increments[0])
        assert constant is not None
        return torch.zeros_like(batch_axis.whole(constant, node, self.batch))

    def _value(self, node: fx.Node, part: int) -> Any:
        """One part of what a node has computed; None is zero."""
        return self.values[node][part]

    def _call(self, node: fx.Node, part: int) -> Any:
        """Apply a node to one part of its arguments, with zeros for the part that a signal lacks."""
        kind, read = site(node).kind, signals(node)
        # A constant part may be that of a single image, which a sum broadcasts; who joins or shapes needs the batch.
        chooses = choosing(node)
        shaped = kind is Kind.PLAIN or len(read) > 1 or any(map(_is_shape, node.all_input_nodes))
        whole = part == 0 and kind is not Kind.SUM and (shaped or kind is Kind.JOIN)

        def argument(read: fx.Node) -> Any:
            value = self._value(read, part)
            if site(read).signal and part == 1 and read in chooses:  # a mask of the input, the same at every step
                return batch_axis.every_step(self._value(read, 0), read, self.batch, self.steps)
            if not site(read).signal:
                own = part == 1 and kind in {Kind.SUM, Kind.JOIN} and isinstance(value, Tensor)
                own = own and read not in chooses  # a mask chooses among signals and is none of them
                return torch.zeros_like(value) if own else value  # a constant belongs to the constant part
            value = self._zeros(read, part) if value is None else value
            return batch_axis.whole(value, read, self.batch) if whole and isinstance(value, Tensor) else value

        return self._apply(node, argument)

    def _zeros(self, read: fx.Node, part: int) -> Tensor | None:
        constant, increments = self._value(read, 0), self._value(read, 1)
        if part == 0 and isinstance(increments, Tensor):
            return increments.new_zeros(()).expand(batch_axis.shape(increments, read, batch_axis.rows(read)))
        if part == 1 and isinstance(constant, Tensor):
            rows = self.rows * batch_axis.rows(read)
            return constant.new_zeros(()).expand(batch_axis.shape(constant, read, rows))
        return None

    def _apply(self, node: fx.Node, argument: Callable[[fx.Node], Any]) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        if node.op == "call_module":
            return self.network.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def broadcasts_to(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Return whether a tensor of a shape can be broadcast to a whole one.

    Unlike `torch.broadcast_shapes` it does not import sympy, which takes half a second.

    >>> broadcasts_to((3, 1), (2, 3, 4)), broadcasts_to((2, 3), (3,)), broadcasts_to((2,), (3,))
    (True, False, False)
    """
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(one in {1, other} for one, other in pairs)


def wide(tensor: Tensor) -> Tensor:
    """A tensor in the type that sums are done in."""
    return tensor.to(accumulation_dtype(tensor.dtype)) if tensor.is_floating_point() else tensor


def _is_shape(node: fx.Node) -> bool:
    return not site(node).signal and node.op != "get_attr"


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
