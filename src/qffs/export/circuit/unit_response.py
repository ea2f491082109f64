"""A walk over a spiking network on which its neurons send what they are told: what arrives where of a single unit."""

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
from qffs.spiking.operands import CONSTANT, INCREMENTS, Operands, Part, call
from qffs.spiking.walk import Edge, walk


def refusal(node: fx.Node) -> str | None:
    """Why spikes do not pass a node as synapses; None where they do."""
    if site(node).kind is Kind.DIFFERENCED and not pools(node):
        return f"it is not linear in {'the input' if site(node).analog else 'what neurons send'}"
    if any(isinstance(each, fx.Node) and site(each).signal for each in choosing(node)):
        return "the input decides where its operands go"
    return None


def refused(network: fx.GraphModule, why: Callable[[fx.Node], str | None]) -> list[str]:
    """What keeps a network from a form, by name: its neurons, or nodes by ``why``."""
    neurons = [(path, module) for path, module in network.named_modules() if isinstance(module, Neuron)]
    found = [f"{path} (Neuron): it fires by another rule" for path, neuron in neurons if not neuron.rule.is_standard]
    return found + [
        f"{node.name} ({label(node, network)}): {told}" for node in network.graph.nodes if (told := why(node))
    ]


def pools(node: fx.Node) -> bool:
    """Whether a node takes the largest of counts: of single spikes, and of nothing that the input decides."""
    largest = site(node).kind is Kind.DIFFERENCED and bool(site(node).unit) and not site(node).analog
    alone = len(node.all_input_nodes) == 1 and site(node).shape is not None  # and no tuple of values and places
    return largest and alone and name_of(node) not in {"amin", "min"}


def flat(value: Tensor, node: fx.Node, batch: int) -> Tensor:
    """What a node holds, as ``[B, N]``."""
    return value.movedim(batch_axis.dimension(node), 0).reshape(batch, -1)


def spread(value: Tensor, node: fx.Node) -> Tensor:
    """The inverse of `flat`."""
    d = batch_axis.dimension(node)
    rest = [size for k, size in enumerate(tensor_shape(node)) if k != d]
    return value.reshape(-1, *rest).movedim(0, d)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what one image has at a node, its rows first where it has several."""
    rest = [size for k, size in enumerate(tensor_shape(node)) if k != batch_axis.dimension(node)]
    return (batch_axis.rows(node), *rest) if batch_axis.rows(node) > 1 else tuple(rest)


def names_of(network: fx.GraphModule) -> dict[fx.Node | int, str]:
    """What inputs, layers of neurons, poolings and outputs (by their number) are called, each otherwise than the rest.

    Layers of neurons by their paths; of others that would be called as something before them, there is a number behind
    the name. ``NAME.levels`` belongs to a pooling too.
    """
    nodes, (end,) = network.graph.nodes, network.graph.find_nodes(op="output")
    outputs = sum(isinstance(each, fx.Node) for each in arguments(end))
    wanted: list[tuple[fx.Node | int, str]] = [(n, str(n.target)) for n in nodes if site(n).kind is Kind.SPIKING]
    wanted += [(node, node.name) for node in nodes if node.op == "placeholder"]
    wanted += [(node, node.name) for node in nodes if pools(node)]
    wanted += [(k, f"output_{k}" if k else "output") for k in range(outputs)]
    taken: set[str] = set()
    found: dict[fx.Node | int, str] = {}
    for key, name in wanted:
        numbered = chain([name], (f"{name}_{k}" for k in count(2)))
        found[key] = next(each for each in numbered if not taken & {each, f"{each}.levels"})
        taken |= {found[key], f"{found[key]}.levels"} if isinstance(key, fx.Node) and pools(key) else {found[key]}
    return found


class UnitResponse:
    """The policy of a walk on which neurons send what they are told, and what would arrive at them is kept.

    The network is one in float64, on the CPU. sent: by the name of a population (`names_of`), what its units send
    ``[B, N]``; only that part is walked then, without constants. None: what the inputs and the biases bring alone.
    """

    def __init__(self, network: fx.GraphModule, inputs: tuple[Tensor, ...], sent: dict[str, Tensor] | None) -> None:
        self.network, self.inputs, self.sent = network, inputs, sent or {}
        self.part: Part = CONSTANT if sent is None else INCREMENTS
        self.images = len(inputs[0])
        self.arrived: dict[str, Tensor] = {}
        self.outputs = 0
        self.values: dict[fx.Node, Edge[Nested]] = {}
        read = self.values.__getitem__
        self._operands = Operands(network, read, self.images, steps=1, rows=self.images, zeros=self._zeros)

    @cached_property
    def names(self) -> dict[fx.Node | int, str]:
        """What populations are called; most walks look at one operator, and at no population."""
        return names_of(self.network)

    def arrivals(self) -> dict[str, Tensor]:
        """Return what arrives at each population ``[B, N]``."""
        walk(self.network, self.inputs, self)
        return self.arrived

    def applied(self, node: fx.Node, value: Tensor) -> Tensor:
        """Return what a node of one argument makes of this value."""
        result: Tensor = call(self.network, node, lambda _: value)
        return result

    def through(self, path: Sequence[fx.Node], read: fx.Node, value: Tensor) -> Nested:
        """Return what the last node of a path makes of ``value`` ``[B, ...]`` as the signal ``read``; others are 0."""
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
        """Return the value of what is no signal."""
        return self._operands.plain(node)

    def linear(self, node: fx.Node) -> Edge[Nested]:
        """Return the one part that is walked."""
        value = None if self._operands.is_zero(node, self.part) else self._operands.apply(node, self.part)
        return self._edge(value)

    def spiking(self, node: fx.Node) -> Edge[Nested]:
        """Keep what arrives at a population, and return what it is told to send."""
        name = self.names[node]
        self._arrives(name, node.all_input_nodes[0])
        return Edge(None, spread(self.sent[name], node) if name in self.sent else None)

    def differenced(self, node: fx.Node) -> Edge[Nested]:
        """Treat a pooling as the population that it becomes."""
        return self.spiking(node)

    def read_out(self, node: fx.Node) -> None:
        """Keep what arrives at an output."""
        self._arrives(self.names[self.outputs], node)
        self.outputs += 1

    def _edge(self, value: Nested) -> Edge[Nested]:
        return Edge(value, None) if self.part == CONSTANT else Edge(None, value)

    def _arrives(self, name: str, node: fx.Node) -> None:
        value = self.values[node][self.part]
        value = self._zeros(node, self.part) if value is None else batch_axis.whole(value, node, self.images)
        self.arrived[name] = flat(value, node, self.images)

    def _zeros(self, read: fx.Node, _: Part) -> Tensor:
        """Zeros of the shape that the example had, for the other part is not there to be asked."""
        d, rows = batch_axis.dimension(read), self.images * batch_axis.rows(read)
        shape = [rows if k == d else size for k, size in enumerate(tensor_shape(read))]
        return torch.zeros((), dtype=torch.float64).expand(shape)
