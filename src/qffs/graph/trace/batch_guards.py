"""Guards that only one batch size passes: whether the code that decided there decides anything about the network.

Code may ask for the length of a batch (``if len(x) > 0``), or keep a table until the shape of its input changes, batch
included. A guard of such a decision would refuse all other batch sizes. But where the code makes the same graph on two
batch sizes, with what it has kept from a third one, and the graph computes what the model does on all three, the
decision changes nothing, and the guard can go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.graph.nested import same
from qffs.graph.operators import expect
from qffs.graph.trace.check import FEW, copies

UNUSUAL = 11
"""A number of images for which no code is likely to have kept a table by its size."""

Read = Callable[[nn.Module, tuple[Tensor, ...]], fx.Graph]


def without_batch_guards(
    new: Callable[[], nn.Module], read: Read, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, fx.Graph] | None:
    """Return a model and its graph without the guards that only one batch size passes; None where a guard is needed.

    new: returns a copy of the model; read: returns the graph of a model on inputs; inputs: the example.
    """
    few = copies(inputs, FEW)
    other = _more(few, 3)
    networks = []
    for images in (_more(few, UNUSUAL - FEW), _more(few, UNUSUAL + 2 - FEW)):
        model = new()
        try:
            model(*map(torch.clone, other))
            networks.append((model, read(model, images)))
        except Exception:  # whatever the network's code raises on other batch sizes
            return None
    model, graph = networks[0]
    if _calls(*networks[0]) != _calls(*networks[1]):
        return None
    failed = set[fx.Node]()
    for images in (tuple(x[:1] for x in few), few, _more(few, 1), other):
        run = _Lenient(fx.GraphModule(model, graph))
        if not same(run.run(*map(torch.clone, images)), new()(*map(torch.clone, images))):
            return None
        failed |= run.failed
    for guard in failed:
        graph.erase_node(guard)
    return model, graph


def _more(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Return the inputs with ``count`` more images."""
    return tuple(torch.cat([x, *[x[:1]] * count]) for x in inputs)


class _Lenient(fx.Interpreter):
    """A run of a graph that goes on after guards that fail, and collects them."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.failed: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        if n.target is not expect:
            return super().run_node(n)
        (value, expected, _), _ = self.fetch_args_kwargs_from_env(n)
        if value != expected:
            self.failed.add(n)
        return None


def _calls(model: nn.Module, graph: fx.Graph) -> list[Any]:
    """Return the calls on which the outputs of a graph depend, in order, as values that can be compared."""
    (end,) = graph.find_nodes(op="output")
    needed, waiting = set(), [end]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    order = [node for node in graph.nodes if node in needed]
    number = {node: position for position, node in enumerate(order)}
    return [
        (
            node.op,
            _constant(model, node) if node.op == "get_attr" else node.target,
            repr(fx.node.map_arg((node.args, node.kwargs), lambda read: f"%{number[read]}")),
        )
        for node in order
    ]


def _constant(model: nn.Module, node: fx.Node) -> Any:
    """Return the name of a weight or a buffer, and the contents of a constant."""
    path = str(node.target)
    if path in model.state_dict():
        return path
    value = getattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2])
    return (value.dtype, value.tolist()) if isinstance(value, Tensor) else value
