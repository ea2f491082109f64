"""The call of an operator by a node: its name in messages, and its arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx, nn

from qffs.graph.site import site


def label(node: fx.Node, root: nn.Module) -> str:
    """Return the name of the operator of a node in messages and plans: ``Conv2d``, ``max_pool2d``, ``.view``."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def arguments(node: fx.Node) -> list[Any]:
    """Return all arguments of a node in order, those inside lists, tuples, dictionaries and slices too."""
    return flat((*node.args, *node.kwargs.values()))


def flat(nested: Any) -> list[Any]:
    """Return what lists, tuples, dictionaries and slices hold, in order."""
    leaves: list[Any] = []

    def visit(argument: Any) -> None:
        if isinstance(argument, (list, tuple)):
            for each in argument:
                visit(each)
        elif isinstance(argument, dict):
            visit(list(argument.values()))
        elif isinstance(argument, slice):
            visit((argument.start, argument.stop, argument.step))
        else:
            leaves.append(argument)

    visit(nested)
    return leaves


def assembles(node: fx.Node) -> bool:
    """Return whether a node puts values together to one of a class of the network's own (`qffs.graph.nested.form`)."""
    kind = node.target if node.op == "call_function" and isinstance(node.target, type) else None
    return kind is not None and (issubclass(kind, (tuple, dict)) or dataclasses.is_dataclass(kind))


def plain_form(node: fx.Node) -> Any:
    """Return what a node puts together (`assembles`) as a plain tuple or dictionary."""
    of_pairs = isinstance(node.target, type) and issubclass(node.target, dict) and node.args
    return node.kwargs or (node.args[0] if of_pairs else node.args)


def replace_argument(reader: fx.Node, old: fx.Node, new: Any) -> None:
    """Let a node read ``new`` instead of ``old``: a node, a literal, or nodes in tuples and dictionaries."""
    reader.args, reader.kwargs = fx.node.map_arg((reader.args, reader.kwargs), lambda n: new if n is old else n)


def outputs(network: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes whose values a network returns, each once and in order."""
    (end,) = network.graph.find_nodes(op="output")
    read = [end]
    while assembling := [node for node in read if node is end or assembles(node)]:
        at = read.index(assembling[0])
        read[at : at + 1] = assembling[0].all_input_nodes
    return list(dict.fromkeys(read))


def choosing(node: fx.Node) -> list[Any]:
    """Return the arguments of a join that select places and are not joined themselves: a mask, an index."""
    return selectors(node, site(node).operator)


def selectors(node: fx.Node, operator: str | None) -> list[Any]:
    """Return the selecting arguments of a node with this operator, as `choosing` does for a node with a record."""
    match operator:
        case "where":
            return flat(node.args[:1])
        case "write":
            return flat(node.args[2:])
    return []


def option(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call by its position or its name, or the default where the call has neither."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def signals(node: fx.Node) -> list[fx.Node]:
    """Return the arguments of a node that carry a signal, in order, each as often as the node reads it."""
    return [read for read in arguments(node) if isinstance(read, fx.Node) and site(read).signal]
