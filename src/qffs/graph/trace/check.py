"""Checks of a traced graph by running it: it must compute the same as the model, and each image alone.

An edge of a graph is a value that never changes, but Python code may change a value in place under another name. And
the simulation puts the steps into the dimension of the batch, so every operator must keep the images apart, whichever
dimension holds them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument
from qffs.graph.call import assembles
from qffs.graph.nested import close, nested, tensors
from qffs.graph.operators import DoesNotRun, at_least, expect
from qffs.graph.rules import OPERATORS, PLAIN, SHAPED, SHAPES, name_of, rule_of
from qffs.graph.site import Kind, described, note, site
from qffs.graph.trace.same import compare

FEW = 2
"""The number of images of the example on which the checks run."""


class _Alone(fx.Interpreter):
    """A run of a graph on a few images, which stores the value of each node."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False


class _Window(NamedTuple):
    """The position of ``few`` images in a larger batch of ``total`` images: after the first ``before`` images."""

    before: int
    few: int
    total: int


class _Joined(_Alone):
    """A run of a graph on the same images inside a larger batch, which compares every node with the run on them alone.

    For these images, every node reads the values of the run on them alone, so that rounding, which depends on the batch
    size, does not add up. After a node that is wrong, the nodes that read it are not compared.
    """

    def __init__(self, traced: fx.GraphModule, alone: dict[fx.Node, Any], window: _Window) -> None:
        super().__init__(traced)
        self.alone, self.window = alone, window
        self.dependent: set[fx.Node] = set()
        self.wrong: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            note(n, problem=f"it needs a batch of one certain size: {error}")
            raise
        if n.op == "placeholder" or any(r in self.dependent and self._reads_data(n, r) for r in n.all_input_nodes):
            self.dependent.add(n)
        changed = any(site(user).problem and site(user).in_place for user in n.users)
        if changed or site(n).problem or any(read in self.wrong for read in n.all_input_nodes):
            self.wrong.add(n)
        if n.op == "output" or assembles(n) or n not in self.dependent or n in self.wrong:
            return value
        return self._compare(n, value)

    def _reads_data(self, node: fx.Node, read: fx.Node) -> bool:
        """Return whether a node reads more than sizes and types of the value of the node ``read``."""
        name = name_of(node)
        if name in SHAPED:
            return read is node.args[0]
        if name == "getattr":
            return node.args[1] not in SHAPES
        return bool(tensors(self.alone[read])) and (name is None or OPERATORS[name] is not PLAIN)

    def _is_linear(self, node: fx.Node) -> bool:
        """Return whether ``f(0) = 0`` and ``f(x + y) = f(x) + f(y)``, for x the values of the images and y others."""

        def other(x: Tensor) -> Tensor:  # of the other sign nearly everywhere, and no multiple of x
            return -2 * x - x.flip(-1) / 3

        changes = (torch.zeros_like, lambda x: x, other, lambda x: x + other(x))
        zero, x, y, both = (self._at(node, change) for change in changes)
        return not any(bool(each.any()) for each in zero) and all(
            close(a + b, c) for a, b, c in zip(x, y, both, strict=True)
        )

    def _at(self, node: fx.Node, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return the tensors that a node returns when ``change`` is applied to the tensors that it reads."""

        def argument(read: fx.Node) -> Any:
            value = self.alone[read]
            return nested(value, map(change, tensors(value))) if read in self.dependent else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        return tensors(getattr(self, node.op)(node.target, args, kwargs))

    def _compare(self, node: fx.Node, value: Any) -> Any:
        """Write ``batch``, ``rounds`` or ``problem`` into the record of a node, and return its value for later nodes.

        For the images, the returned value holds their values in the run on them alone.
        """
        alone = self.alone[node]
        reads_floats = any(x.is_floating_point() for read in node.all_input_nodes for x in tensors(self.alone[read]))
        is_whole = isinstance(alone, Tensor) and not (alone.is_floating_point() or alone.is_complex())
        note(node, rounds=reads_floats and is_whole)
        batches, values = [], []
        for small, large in zip(tensors(alone), tensors(value), strict=True):
            batch = _batch(small, large, self.window)
            if batch is None:
                note(node, problem="it joins the images of the batch, or mixes their order")
                self.wrong.add(node)
                return value
            batches.append(batch)
            values.append(_between(small, large, batch, self.window))
        rule = rule_of(node, self.module)
        if rule is not None and rule.claimed and rule.kind is Kind.LINEAR and not self._is_linear(node):
            note(node, problem="it was registered as linear, but does not map sums to sums and 0 to 0")
            self.wrong.add(node)
            return value
        note(node, batch=nested(alone, batches))
        return nested(value, values)


@torch.no_grad()
def check(
    traced: fx.GraphModule, recorded: fx.GraphModule, new: Callable[[], nn.Module], inputs: tuple[Tensor, ...]
) -> bool:
    """Run the checks in eval mode, and write the results into the record of every node (`qffs.graph.site.Site`).

    The results are its ``shape``, ``batch``, ``rounds`` and ``problem``. Raises `NotTraceable` where the graph and the
    model compute different outputs or gradients.

    recorded: the graph in the form in which gradients are compared; new: returns a copy of the model that has not run.
    Returns whether a guard depends on the number of images.
    """
    alone = _Alone(traced)
    coarse = max((torch.finfo(node.args[1]).eps for node in traced.graph.nodes if node.target is at_least), default=0.0)
    try:
        computed = alone.run(*copies(inputs, FEW))
    except Exception as error:  # of code that does not run on a few images, or computes what no stand-in shows
        failed = next(node for node in traced.graph.nodes if node not in alone.env)
        raise DoesNotRun(f"{error} (at {failed.target}{described(failed)})") from error
    if not any(site(node).problem for node in traced.graph.nodes):  # else the plan gives the reason
        compare(computed, recorded, new, copies(inputs, FEW), coarse)
    count = min(FEW, len(inputs[0]))
    window = _Window(1, count, count + 3)  # not in the middle, where reversing the order would not move them
    joined = _Joined(traced, alone.env, window)
    try:
        joined.run(*(_surrounded(x, window) for x in copies(inputs, FEW)))
    except Exception:  # expected where a node has a problem now; else it is an error of this library
        if not any(site(node).problem for node in traced.graph.nodes):
            raise
    for node in traced.graph.nodes:
        note(node, shape=_shape(alone.env.get(node), joined.env.get(node), len(inputs[0]), window))
    return any(
        site(guard).problem or _compares_batches(guard.args[0], alone.env, joined.env)
        for guard in traced.graph.find_nodes(op="call_function", target=expect)
    )


def _compares_batches(node: Any, alone: dict[fx.Node, Any], joined: dict[fx.Node, Any]) -> bool:
    """Return whether a node compares a size that depends on the number of images with another one."""
    return (
        isinstance(node, fx.Node)
        and node.target in (operator.eq, operator.ne)
        and any(alone.get(read) != joined.get(read) for read in node.all_input_nodes)
    )


def refuse_inputs(inputs: tuple[Tensor, ...]) -> None:
    """Raise `InvalidArgument` unless every input is a batch, of the same number of images."""
    if len({x.shape[:1] for x in inputs}) != 1 or not inputs[0].dim() or not len(inputs[0]):
        raise InvalidArgument("example must hold at least one image, the batch in dimension 0 of every input")


def copies(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Return copies of the first ``count`` images of the inputs: a network may change its input in place."""
    return tuple(x[:count].detach().clone() for x in inputs)


def _other(x: Tensor) -> Tensor:
    """Return other images of the same shape, type and range; for whole numbers the same ones, reversed."""
    if not x.is_floating_point():
        return x.flip(0, -1) if x.dim() > 1 else x.flip(0)
    random = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * random - 1).to(x) * (x.abs().max() if bool(x.any()) else 1)


def _surrounded(x: Tensor, window: _Window) -> Tensor:
    """Return a batch with other images around x: code that depends on the position of an image fails on it."""
    other = _other(torch.cat([x, x, x])[: window.total - window.few])
    return torch.cat([other[: window.before], x, other[window.before :]])


def _between(small: Tensor, large: Tensor, batch: tuple[int, int], window: _Window) -> Tensor:
    """Return ``large`` with ``small`` in the place of the images of the window."""
    dimension, rows = batch
    before, _, behind = large.split(
        [rows * n for n in (window.before, window.few, window.total - window.before - window.few)], dimension
    )
    return torch.cat([before, small, behind], dimension)


def _batch(small: Tensor, large: Tensor, window: _Window) -> tuple[int, int] | None:
    """Return the dimension that holds the images and the rows per image there; None where the images are not apart."""
    if small.dim() != large.dim():
        return None
    changed = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
    if len(changed) != 1:
        return None
    (dimension,) = changed
    size = small.shape[dimension]
    rows = size // window.few
    if size % window.few or large.shape[dimension] != rows * window.total:
        return None
    return (dimension, rows) if close(small, large.narrow(dimension, rows * window.before, size)) else None


def _shape(alone: Any, joined: Any, images: int, window: _Window) -> tuple[int, ...] | None:
    """Return the shape of a value for ``images`` images, from its values for few and for more images."""
    if not isinstance(alone, Tensor):
        return None
    if not isinstance(joined, Tensor) or joined.dim() != alone.dim():
        return tuple(alone.shape)
    return tuple(
        small // window.few * images if large != small else small
        for small, large in zip(alone.shape, joined.shape, strict=True)
    )
