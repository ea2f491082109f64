"""The one walk over the graph of a spiking network: the order of computation, and how long values are kept.

How a node is computed is up to a policy. There are three: `qffs.spiking.step_by_step.Reference` advances neurons step
by step, `qffs.spiking.layer_by_layer.Accumulated` computes a layer for all steps at once, and
`qffs.export.circuit.unit_response.UnitResponse` lets neurons send what they are told to. Whoever measures or changes a
simulation on its way looks at each node ``before`` it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

from torch import Tensor, fx

from qffs.graph.nested import Nested
from qffs.graph.site import Kind
from qffs.spiking.operations import Operations

S = TypeVar("S")


class Edge(NamedTuple, Generic[S]):
    """What an edge of the graph carries: two parts that are added up where neurons are charged; None is zero.

    ``constant`` ``[B, ...]`` or ``[1, ...]``: what comes from the analog input and the biases without passing a neuron;
    at step t the schedule charges ``weights[t] * constant``. ``increments``: what neurons sent, in the form of the
    policy. Where the network holds its images in another dimension than 0, or several rows per image, they stand there
    (``dimension`` and ``rows`` of the node's `qffs.spiking.operations.Operation`). On an edge that is no signal (a
    shape, a weight) both parts are the value itself, as each part's tensors have it.
    """

    constant: Nested
    increments: S


class Policy(Protocol[S]):
    """How each kind of node is computed, from the ``values`` of the nodes that it reads."""

    values: dict[fx.Node, Edge[S]]

    def plain(self, node: fx.Node) -> Edge[S]:
        """Return the value of what is no signal: a shape, a constant."""

    def linear(self, node: fx.Node) -> Edge[S]:
        """Return what a linear operator, a sum or a join makes of each part."""

    def spiking(self, node: fx.Node) -> Edge[S]:
        """Return what a layer of neurons sends."""

    def differenced(self, node: fx.Node) -> Edge[S]:
        """Return ``g(X_t) - g(X_{t-1})`` of the accumulated inputs X."""

    def read_out(self, node: fx.Node) -> Nested:
        """Return what is read out of a signal that the network returns."""


Before = Callable[[fx.Node], object]
"""Called with each node before it is computed, while the values of all nodes that it reads are still there."""


def walk(operations: Operations, inputs: Sequence[Tensor], policy: Policy[S], before: Before | None = None) -> Nested:
    """Compute every node of a network in its order, and return what is read out, as it is nested.

    inputs: one tensor ``[B, ...]`` for each input of the network. A value is let go of after its last reader.
    """
    values, following = policy.values, iter(inputs)

    def result(node: fx.Node) -> Nested:
        return values[node].constant if operations.of[node].kind is Kind.OUTPUT else policy.read_out(node)

    for node, operation in operations.of.items():
        if before is not None:
            before(node)
        match operation.kind:
            case Kind.INPUT:
                values[node] = Edge(next(following), cast(S, None))
            case Kind.PLAIN:
                values[node] = policy.plain(node)
            case Kind.SUM | Kind.JOIN | Kind.LINEAR:
                values[node] = policy.linear(node)
            case Kind.SPIKING:
                values[node] = policy.spiking(node)
            case Kind.DIFFERENCED:
                values[node] = policy.differenced(node)
            case Kind.OUTPUT:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), result)
                if node.op == "output":
                    return args[0]
                values[node] = Edge(node.target(*args, **kwargs), cast(S, None))  # type: ignore[operator]
            case kind:
                raise AssertionError(f"{node} is {kind}, which no network to simulate holds")
        for read in operation.last_of:
            del values[read]
    raise AssertionError("a graph without an output")
