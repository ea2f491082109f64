"""How a node calls its operator: what it is called, and what it is called with."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from qffs.graph.site import site


def label(node: fx.Node, root: nn.Module) -> str:
    """How the operator of a node is called in messages and plans: ``Conv2d``, ``max_pool2d``, ``.view``."""
    if node.op == "call_module":
        return type(root.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def arguments(node: fx.Node) -> list[Any]:
    """All arguments of a node, whatever their nesting, in order."""
    return _flat((*node.args, *node.kwargs.values()))


def _flat(nested: Any) -> list[Any]:
    found: list[Any] = []

    def visit(argument: Any) -> None:
        if isinstance(argument, (list, tuple)):
            for each in argument:
                visit(each)
        elif isinstance(argument, dict):
            visit(list(argument.values()))
        elif isinstance(argument, slice):
            visit((argument.start, argument.stop, argument.step))
        else:
            found.append(argument)

    visit(nested)
    return found


def choosing(node: fx.Node) -> list[Any]:
    """Return the arguments of a join that say where its operands go, and are no operands: a mask, an index."""
    return selectors(node, site(node).operator)


def selectors(node: fx.Node, operator: str | None) -> list[Any]:
    """Return what `choosing` does, of a node that has this operator."""
    match operator:
        case "where":
            return _flat(node.args[:1])
        case "write":
            return _flat(node.args[2:])
    return []


def option(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def signals(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that carry a signal, in order, each as often as it is read."""
    return [read for read in arguments(node) if isinstance(read, fx.Node) and site(read).signal]
