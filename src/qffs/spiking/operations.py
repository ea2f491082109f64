"""The operations of a spiking network, in their order, with what a simulation asks about each of them.

The graph is asked once, when the network is built. A run reads these records alone.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from qffs.graph import batch_axis
from qffs.graph.call import choosing, option, signals
from qffs.graph.site import Kind, site, tensor_shape

MOVES = frozenset(("chunk", "flatten", "getitem", "narrow", "pad", "permute", "reshape", "select", "squeeze"))
MOVES |= {"transpose", "unflatten"}
"""Linear operators that only move their input; `pad` puts zeros in, another value is a sum of its own by now."""


@dataclass(frozen=True, eq=False)
class Operation:
    """What a simulation asks about one node of a network.

    - ``name``: the node's name, for messages;
    - ``kind``, ``operator``, ``signal``: as in its `qffs.graph.site.Site`;
    - ``dimension``, ``rows``: the dimension that holds the images, and the rows per image there; -1 and 0 where the
      value holds several tensors, or no images;
    - ``reads``: the signals that it reads, in order, each as often as it reads it; ``sources``: each once;
    - ``selects``: what a join reads to select places, and does not join: a mask, an index;
    - ``last_of``: the nodes whose values nobody reads after it;
    - ``takes_item``: whether it reads a value that holds several signals;
    - ``reads_shape``: whether it reads a value that was computed for all steps together, such as a shape;
    - ``only_moves``: whether it moves levels, puts zeros between them, and does nothing else;
    - ``for_neurons_alone``: whether only a layer of neurons reads it, at once or through sums that broadcast nothing;
    - ``added_up``: whether all that read it are sums and layers of neurons.
    """

    name: str
    kind: Kind
    operator: str | None
    signal: bool
    dimension: int
    rows: int
    reads: tuple[fx.Node, ...]
    sources: tuple[fx.Node, ...]
    selects: tuple[Any, ...]
    last_of: tuple[fx.Node, ...]
    takes_item: bool
    reads_shape: bool
    only_moves: bool
    for_neurons_alone: bool
    added_up: bool


@dataclass(frozen=True, eq=False)
class Operations:
    """The operations of a network in the order of computation.

    ``network``: the graph, classified and folded; ``of``: the record of each node, in order; ``inputs``: the shape of
    one image of each input on the example; ``cuts_at``: the name of the first node that cuts each image into several
    rows of the batch, None where there is none; ``images_first``: whether every value has its images in dimension 0,
    one row per image; ``by_layer``: whether `qffs.spiking.layer_by_layer` can run it, which needs this of all signals,
    and values that hold several signals to be taken apart one by one.
    """

    network: fx.GraphModule
    of: Mapping[fx.Node, Operation]
    inputs: tuple[tuple[int, ...], ...]
    cuts_at: str | None
    images_first: bool
    by_layer: bool


def operations(network: fx.GraphModule) -> Operations:
    """Return the operations of a classified, folded network. They hold for this graph, not for copies of it."""
    nodes = list(network.graph.nodes)
    last_reader = {read: node for node in nodes for read in node.all_input_nodes}
    inputs = tuple(tensor_shape(node)[1:] for node in nodes if node.op == "placeholder")
    cuts_at = next((node.name for node in nodes if any(rows != 1 for _, rows in batch_axis.axes(node))), None)
    return Operations(
        network,
        {node: _operation(node, last_reader) for node in nodes},
        inputs,
        cuts_at,
        images_first=all(axis == (0, 1) for node in nodes for axis in batch_axis.axes(node)),
        by_layer=all(_by_layer(node) for node in nodes if site(node).signal and site(node).kind is not Kind.OUTPUT),
    )


def _operation(node: fx.Node, last_reader: Mapping[fx.Node, fx.Node]) -> Operation:
    record, reads = site(node), tuple(signals(node))
    assert record.kind is not None, f"{node} is not classified"
    one = bool(record.batch) and not batch_axis.holds_several(node)
    return Operation(
        name=node.name,
        kind=record.kind,
        operator=record.operator,
        signal=record.signal,
        dimension=batch_axis.dimension(node) if one else -1,
        rows=batch_axis.rows(node) if one else 0,
        reads=reads,
        sources=tuple(dict.fromkeys(reads)),
        selects=tuple(choosing(node)),
        last_of=tuple(read for read in node.all_input_nodes if last_reader[read] is node),
        takes_item=any(map(batch_axis.holds_several, reads)),
        reads_shape=any(n.op != "get_attr" and not site(n).signal for n in node.all_input_nodes),
        only_moves=_only_moves(node),
        for_neurons_alone=_for_neurons_alone(node),
        added_up=all(site(user).kind in {Kind.SPIKING, Kind.SUM} for user in node.users),
    )


def _by_layer(node: fx.Node) -> bool:
    """Return whether the images of a signal lie in dimension 0, and only single values are taken out of several."""
    takes_one = (
        user.op == "call_function" and user.target is operator.getitem and isinstance(user.args[1], int)
        for user in node.users
    )
    return set(batch_axis.axes(node)) == {(0, 1)} and (not batch_axis.holds_several(node) or all(takes_one))


def _only_moves(node: fx.Node) -> bool:
    if site(node).operator not in MOVES or len(node.all_input_nodes) != 1:
        return False
    zeros = option(node, 2, "mode", "constant") == "constant" and not option(node, 3, "value")
    return zeros or site(node).operator != "pad"


def _for_neurons_alone(node: fx.Node) -> bool:
    if (site(node).kind is Kind.SUM and not _adds_plainly(node)) or len(node.users) != 1:
        return False
    (user,) = node.users
    return site(user).kind is Kind.SPIKING or (site(user).kind is Kind.SUM and _for_neurons_alone(user))


def _adds_plainly(node: fx.Node) -> bool:
    """Return whether a sum adds different signals of its own shape, and perhaps a constant."""
    read = signals(node)
    alike = all(tensor_shape(n)[1:] == tensor_shape(node)[1:] for n in read)
    return site(node).operator == "add" and not node.kwargs and len(set(read)) == len(read) and alike
