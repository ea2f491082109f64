"""Unit responses: a walk in which neurons send prescribed spikes, to see the values that arrive from each unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, count

import torch
from torch import Tensor, fx

from qffs.graph import batch_axis
from qffs.graph.call import arguments, choosing, label
from qffs.graph.nested import Nested
from qffs.graph.rules import name_of
from qffs.graph.site import Kind, site, tensor_shape
from qffs.nn.neuron import Neuron
from qffs.spiking.operands import CONSTANT, INCREMENTS, Operands, Part, call, whole
from qffs.spiking.operations import Operations
from qffs.spiking.walk import Edge, walk


def refusal(node: fx.Node) -> str | None:
    """Return why a node cannot be written as synapses; None if it can."""
    if site(node).kind is Kind.DIFFERENCED and not pools(node):
        return f"it is not linear in {'the input' if site(node).analog else 'what neurons send'}"
    if any(isinstance(each, fx.Node) and site(each).signal for each in choosing(node)):
        return "the input decides where its operands go"
    return None


def refusals(network: fx.GraphModule, why: Callable[[fx.Node], str | None]) -> list[str]:
    """Return the reasons why a network cannot be written, each with the name of its neurons or node.

    Neurons need the standard firing rule. why: returns the reason against a node, or None.
    """
    neurons = [(path, module) for path, module in network.named_modules() if isinstance(module, Neuron)]
    reasons = [f"{path} (Neuron): it fires by another rule" for path, neuron in neurons if not neuron.rule.is_standard]
    return reasons + [
        f"{node.name} ({label(node, network)}): {reason}" for node in network.graph.nodes if (reason := why(node))
    ]


def pools(node: fx.Node) -> bool:
    """Return whether a node takes the largest of counts of spikes, of a signal that depends on neurons only."""
    largest = site(node).kind is Kind.DIFFERENCED and bool(site(node).unit) and not site(node).analog
    alone = (
        len(node.all_input_nodes) == 1 and site(node).shape is not None
    )  # and does not return a tuple of values and indices
    return largest and alone and name_of(node) not in {"amin", "min"}


def flat(value: Tensor, node: fx.Node, batch: int) -> Tensor:
    """Return the value of a node as ``[B, N]``."""
    return value.movedim(batch_axis.dimension(node), 0).reshape(batch, -1)


def spread(value: Tensor, node: fx.Node) -> Tensor:
    """Return a value ``[B, N]`` in the shape of a node: the inverse of `flat`."""
    d = batch_axis.dimension(node)
    rest = [size for k, size in enumerate(tensor_shape(node)) if k != d]
    return value.reshape(-1, *rest).movedim(0, d)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of one image at a node, with its rows first if it has several rows."""
    rest = [size for k, size in enumerate(tensor_shape(node)) if k != batch_axis.dimension(node)]
    return (batch_axis.rows(node), *rest) if batch_axis.rows(node) > 1 else tuple(rest)


def names_of(network: fx.GraphModule) -> dict[fx.Node | int, str]:
    """Return a unique name for each input, layer of neurons, pooling and output; the key of an output is its number.

    The name of a layer of neurons is its path. If another name exists already, a number is added to it. A pooling also
    uses the name ``NAME.levels``.
    """
    nodes, (end,) = network.graph.nodes, network.graph.find_nodes(op="output")
    outputs = sum(isinstance(each, fx.Node) for each in arguments(end))
    preferred: list[tuple[fx.Node | int, str]] = [(n, str(n.target)) for n in nodes if site(n).kind is Kind.SPIKING]
    preferred += [(node, node.name) for node in nodes if node.op == "placeholder"]
    preferred += [(node, node.name) for node in nodes if pools(node)]
    preferred += [(k, f"output_{k}" if k else "output") for k in range(outputs)]
    used: set[str] = set()
    names: dict[fx.Node | int, str] = {}
    for key, name in preferred:
        numbered = chain([name], (f"{name}_{k}" for k in count(2)))
        names[key] = next(each for each in numbered if not used & {each, f"{each}.levels"})
        used |= {names[key], f"{names[key]}.levels"} if isinstance(key, fx.Node) and pools(key) else {names[key]}
    return names


class UnitResponse:
    """The policy of a walk in which neurons send prescribed values, and the values that arrive are recorded.

    operations: of a spiking network in float64 on the CPU. inputs: ``[B, ...]`` each. sent: the values ``[B, N]`` that
    each population sends, by name (`names_of`); then only increments are computed, without constants. With None, only
    the constants are computed: what arrives from the inputs and the biases.
    """

    def __init__(self, operations: Operations, inputs: tuple[Tensor, ...], sent: dict[str, Tensor] | None) -> None:
        self.operations, self.network = operations, operations.network
        self.inputs, self.sent = inputs, sent or {}
        self.part: Part = CONSTANT if sent is None else INCREMENTS
        self.images = len(inputs[0])
        self.arrived: dict[str, Tensor] = {}
        self.outputs = 0
        self.values: dict[fx.Node, Edge[Nested]] = {}
        read = self.values.__getitem__
        self._operands = Operands(operations, read, self.images, steps=1, rows=self.images, zeros=self._zeros)

    @cached_property
    def names(self) -> dict[fx.Node | int, str]:
        """The names of the populations, computed only if needed, because most walks are about one operator."""
        return names_of(self.network)

    def arrivals(self) -> dict[str, Tensor]:
        """Return the values that arrive at each population, ``[B, N]``."""
        walk(self.operations, self.inputs, self)
        return self.arrived

    def applied(self, node: fx.Node, value: Tensor) -> Tensor:
        """Return the result of a node with one argument for this value."""
        result: Tensor = call(self.network, node, lambda _: value)
        return result

    def through(self, path: Sequence[fx.Node], read: fx.Node, value: Tensor) -> Nested:
        """Return the result of the last node of a path for a ``value`` ``[B, ...]`` of ``read``, with all else 0."""
        for node in self.network.graph.nodes:
            self.values[node] = Edge(None, None)
            if node is read:
                self.values[node] = Edge(None, value.movedim(0, batch_axis.dimension(read)))
            elif site(node).kind is Kind.PLAIN:
                self.values[node] = self.plain(node)
            elif node in path:
                self.values[node] = Edge(None, self._operands.apply(node, INCREMENTS))
            if node is path[-1]:
                break
        return self.values[path[-1]].increments

    def plain(self, node: fx.Node) -> Edge[Nested]:
        """Return the value of a node that is not a signal."""
        return self._operands.plain(node)

    def linear(self, node: fx.Node) -> Edge[Nested]:
        """Return the one part that this walk computes."""
        value = None if self._operands.is_zero(node, self.part) else self._operands.apply(node, self.part)
        return self._edge(value)

    def spiking(self, node: fx.Node) -> Edge[Nested]:
        """Record the values that arrive at a population, and return the values that it sends."""
        name = self.names[node]
        self._arrives(name, node.all_input_nodes[0])
        return Edge(None, spread(self.sent[name], node) if name in self.sent else None)

    def differenced(self, node: fx.Node) -> Edge[Nested]:
        """Record and return the values of a pooling, which becomes a population; see `spiking`."""
        return self.spiking(node)

    def read_out(self, node: fx.Node) -> None:
        """Record the values that arrive at an output."""
        self._arrives(self.names[self.outputs], node)
        self.outputs += 1

    def _edge(self, value: Nested) -> Edge[Nested]:
        return Edge(value, None) if self.part == CONSTANT else Edge(None, value)

    def _arrives(self, name: str, node: fx.Node) -> None:
        value = self.values[node][self.part]
        value = self._zeros(node, self.part) if value is None else whole(value, self.operations.of[node], self.images)
        self.arrived[name] = flat(value, node, self.images)

    def _zeros(self, read: fx.Node, _: Part) -> Tensor:
        """Return zeros in the shape of the example, because this walk does not compute the other part."""
        d, rows = batch_axis.dimension(read), self.images * batch_axis.rows(read)
        shape = [rows if k == d else size for k, size in enumerate(tensor_shape(read))]
        return torch.zeros((), dtype=torch.float64).expand(shape)
