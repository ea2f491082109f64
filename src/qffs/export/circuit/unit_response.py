"""A walk over a spiking network on which its neurons send what they are told: what arrives where of a single unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx

from qffs.graph import batch_axis
from qffs.graph.call import arguments, choosing, label, name_of
from qffs.graph.site import Kind, site, tensor_shape
from qffs.nn.neuron import Neuron
from qffs.spiking.step_by_step import Pair, State, Walk


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


class Probe(Walk):
    """A walk on which neurons send what they are told, and what would arrive at them is kept.

    The network is one in float64, on the CPU. Populations are called as `names_of` says.
    """

    def __init__(self, network: fx.GraphModule, inputs: tuple[Tensor, ...], sent: dict[str, Tensor] | None) -> None:
        # Of a walk that has begun the constants are known, and here there are none: only what neurons send arrives.
        super().__init__(network, State(inputs, begun=sent is not None), (1.0,), None)
        self.sent, self.part, self.outputs = sent or {}, 0 if sent is None else 1, 0
        self.arrived: dict[str, Tensor] = {}

    @cached_property
    def names(self) -> dict[fx.Node | int, str]:
        """What populations are called; most walks look at one operator, and at no population."""
        return names_of(self.network)

    def arrivals(self) -> dict[str, Tensor]:
        """What arrives at each population ``[B, N]``."""
        self.run()
        return self.arrived

    def applied(self, node: fx.Node, value: Tensor) -> Tensor:
        """A node of one argument, of this value."""
        result: Tensor = self._apply(node, lambda _: value)
        return result

    def through(self, path: Sequence[fx.Node], read: fx.Node, value: Tensor) -> Any:
        """What the last node of a path makes of ``value`` ``[B, ...]`` as the one signal that is read; others are 0."""
        for node in self.network.graph.nodes:
            self.values[node] = Pair(None, None)
            if node is read:
                self.values[node] = Pair(None, value.movedim(0, batch_axis.dimension(read)))
            elif site(node).kind is Kind.PLAIN:
                self.values[node] = self._plain(node)
            elif node in path:
                self.values[node] = Pair(None, self._call(node, 1))
            if node is path[-1]:
                break
        return self.values[path[-1]].increments

    def _spiking(self, node: fx.Node) -> Any:
        name = self.names[node]
        self._arrives(name, node.all_input_nodes[0])
        return spread(self.sent[name], node) if name in self.sent else None

    def _differenced(self, node: fx.Node) -> Pair:
        return Pair(None, self._spiking(node))

    def _read_out(self, node: fx.Node) -> Any:
        self._arrives(self.names[self.outputs], node)
        self.outputs += 1

    def _arrives(self, name: str, node: fx.Node) -> None:
        value = self._value(node, self.part)
        value = self._zeros(node, self.part) if value is None else batch_axis.whole(value, node, self.batch)
        self.arrived[name] = flat(value, node, self.batch)

    def _adds_nothing(self, *_: Any) -> bool:
        return False  # it would ask for the other part, which is not there

    def _zeros(self, read: fx.Node, part: int) -> Tensor:
        del part  # the other is not there to be asked for its shape
        d = batch_axis.dimension(read)
        shape = [self.batch * batch_axis.rows(read) if k == d else size for k, size in enumerate(tensor_shape(read))]
        return torch.zeros((), dtype=torch.float64).expand(shape)
