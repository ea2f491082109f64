"""Writes in place: tensors that share memory change together, which a graph does not show."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qffs.graph.nested import tensors
from qffs.graph.operators import write_
from qffs.graph.site import note, site

Write = tuple[fx.Node, list[Tensor]]
"""A call, and the tensors that it changed in place."""


def find_aliases(
    graph: fx.Graph, values: Mapping[fx.Node, Any], writes: Sequence[Write], inputs: Sequence[Tensor]
) -> None:
    """Write the ``problem`` of a call that changes an input, or a tensor that is read later under another name.

    values: the value of every node on the example; writes: the calls in place; inputs: the inputs of the network.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    for writer, changed in writes:
        # Views of a tensor share its version, so all of them look changed: only the memory of the first argument is.
        changed = [x for x in changed if _overlap([x], values[writer.all_input_nodes[0]])]
        later = [node for node in graph.nodes if order[node] > order[writer]]
        read = {each for node in later for each in node.all_input_nodes if order[each] < order[writer]}
        current = set(names(writer))  # their readers read the tensor after the write
        whole, back = _put_back(writer)
        if back and not any(whole in node.all_input_nodes for node in later if order[node] < order[back]):
            current.add(whole)
        value = writer.args[1] if writer.target is write_ else None
        if isinstance(value, fx.Node) and _put_back(value)[1] is writer:
            current |= {value, *names(value)}
        others = [values[each] for each in read - current]
        if _overlap(changed, inputs):
            note(writer, problem="it writes into an input of the network, in place")
        elif _overlap(changed, others):
            note(writer, problem="it changes a tensor in place that is read later under another name")


def _put_back(writer: fx.Node) -> tuple[Any, fx.Node | None]:
    """Return x, and the node that writes the changed part back into x, for a call that changes ``x[index]``.

    Return None twice for any other call. From that node on, all readers of x read the result of that node.
    """
    part = names(writer)[-1]
    for user in writer.users:
        if part.target is operator.getitem and user.target is write_:
            whole, value, index = user.args
            if (whole, value, index) == (part.args[0], writer, part.args[1]):
                return whole, user
    return None, None


def names(writer: fx.Node) -> list[fx.Node]:
    """Return the nodes whose value a call in place has changed: all earlier names of the tensor, the first one last."""
    nodes = [writer]
    while site(nodes[-1]).in_place and nodes[-1].all_input_nodes:
        nodes.append(nodes[-1].all_input_nodes[0])
    return nodes[1:] or nodes


def _overlap(changed: list[Tensor], value: Any) -> bool:
    """Return whether a tensor of ``value`` shares memory with a changed tensor."""
    pairs = ((x, y) for x in changed for y in tensors(value))
    return any(bool(_shared(x, y).any()) for x, y in pairs)


def _shared(x: Tensor, y: Tensor) -> Tensor:
    """Return for every element of y whether it is an element of x too."""
    if x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr():
        return torch.zeros(1)
    if x.element_size() != y.element_size():
        return torch.ones(1)
    marked = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
    marked.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
    return marked.as_strided(y.shape, y.stride(), y.storage_offset())
