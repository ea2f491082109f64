"""What tracing cannot see is measured: the graph computes what the model computes, and each image on its own.

A graph edge is a value that never changes, while Python code may change one in place under another name. And the
simulation puts time beside the batch, so every operator must keep the images apart, whichever dimension holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotTraceable
from qffs.graph.nested import nested, tensors
from qffs.graph.operators import at_least
from qffs.graph.rules import OPERATORS, PLAIN, SHAPED, SHAPES, name_of, rule_of
from qffs.graph.site import Kind, note, site

FEW = 2
"""Images of the example that the checks are run on."""


class _Alone(fx.Interpreter):
    """Runs a graph on a few images and keeps what each node returned."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False


class _Place(NamedTuple):
    """Where ``few`` images stand in a larger batch: behind ``before`` others, ``total`` images in all."""

    before: int
    few: int
    total: int


class _Joined(_Alone):
    """Runs a graph on the same images between others, and compares node by node until something is wrong.

    Every node reads of these images what they gave alone, so that rounding, which depends on the size of a batch,
    does not add up.
    """

    def __init__(self, traced: fx.GraphModule, alone: dict[fx.Node, Any], place: _Place) -> None:
        super().__init__(traced)
        self.alone, self.place = alone, place
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
        if n.op == "output" or n not in self.dependent or n in self.wrong:
            return value
        return self._compare(n, value)

    def _reads_data(self, node: fx.Node, read: fx.Node) -> bool:
        """Whether a node reads more of what another returns than sizes and types."""
        name = name_of(node)
        if name in SHAPED:
            return read is node.args[0]
        if name == "getattr":
            return node.args[1] not in SHAPES
        return bool(tensors(self.alone[read])) and (name is None or OPERATORS[name] is not PLAIN)

    def _is_linear(self, node: fx.Node) -> bool:
        """Whether ``f(0) = 0`` and ``f(x + y) = f(x) + f(y)``, for x the images' values and y others."""

        def other(x: Tensor) -> Tensor:  # of the other sign nearly everywhere, and no multiple of x
            return -2 * x - x.flip(-1) / 3

        changes = (torch.zeros_like, lambda x: x, other, lambda x: x + other(x))
        zero, x, y, both = (self._at(node, change) for change in changes)
        return not any(bool(each.any()) for each in zero) and all(
            _close(a + b, c) for a, b, c in zip(x, y, both, strict=True)
        )

    def _at(self, node: fx.Node, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What a node returns where the tensors it reads of the images are changed."""

        def argument(read: fx.Node) -> Any:
            value = self.alone[read]
            return nested(value, map(change, tensors(value))) if read in self.dependent else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
        return tensors(getattr(self, node.op)(node.target, args, kwargs))

    def _compare(self, node: fx.Node, value: Any) -> Any:
        """Write what is found into the record of the node; returned: the value, of the images what they gave alone."""
        alone = self.alone[node]
        of_floats = any(x.is_floating_point() for read in node.all_input_nodes for x in tensors(self.alone[read]))
        counts = isinstance(alone, Tensor) and not (alone.is_floating_point() or alone.is_complex())
        note(node, rounds=of_floats and counts)
        batches, whole = [], []
        for small, large in zip(tensors(alone), tensors(value), strict=True):
            batch = _batch(small, large, self.place)
            if batch is None:
                note(node, problem="it joins the images of the batch, or mixes their order")
                self.wrong.add(node)
                return value
            batches.append(batch)
            whole.append(_between(small, large, batch, self.place))
        rule = rule_of(node, self.module)
        if rule is not None and rule.claimed and rule.kind is Kind.LINEAR and not self._is_linear(node):
            note(node, problem="it was registered as linear, but does not map sums to sums and 0 to 0")
            self.wrong.add(node)
            return value
        note(node, batch=nested(alone, batches))
        return nested(value, whole)


@torch.no_grad()
def check(traced: fx.GraphModule, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Run the checks in eval mode; write what they find into the record of every node (`qffs.graph.site.Site`).

    ``shape``: of what it returns on the inputs, None for what is no tensor; ``batch``: the dimension that holds the
    images and how many rows each has there, in order (of several tensors, in their nesting; None where a value is the
    same for every batch); ``rounds``: whether it makes whole numbers of floating ones; ``problem``: why the node
    cannot be converted, if so. Raises `NotTraceable` where graph and model differ.
    """
    alone = _Alone(traced)
    coarse = max((torch.finfo(node.args[1]).eps for node in traced.graph.nodes if node.target is at_least), default=0.0)
    computed = alone.run(*copies(inputs, FEW))
    if not any(site(node).problem for node in traced.graph.nodes):  # else the plan will tell more
        _same_function(computed, model(*copies(inputs, FEW)), type(model).__name__, coarse)
    count = min(FEW, len(inputs[0]))
    place = _Place(1, count, count + 3)  # not in the middle, where turning the order would not move them
    joined = _Joined(traced, alone.env, place)
    try:
        joined.run(*(_surrounded(x, place) for x in copies(inputs, FEW)))
    except Exception:  # of the node that now has a problem; anything else is an error of our own
        if not any(site(node).problem for node in traced.graph.nodes):
            raise
    for node in traced.graph.nodes:
        note(node, shape=_shape(alone.env.get(node), joined.env.get(node), len(inputs[0]), place))


def refuse_inputs(inputs: tuple[Tensor, ...]) -> None:
    """Raise `InvalidArgument` unless every input is a batch, of the same number of images."""
    if len({x.shape[:1] for x in inputs}) != 1 or not inputs[0].dim() or not len(inputs[0]):
        raise InvalidArgument("example must hold at least one image, the batch in dimension 0 of every input")


def copies(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The first images of the inputs for one run: a network may change its input in place."""
    return tuple(x[:count].detach().clone() for x in inputs)


def _other(x: Tensor) -> Tensor:
    """Other images of the same shape and type, and of about the same size; of whole numbers, the same ones, turned."""
    if not x.is_floating_point():
        return x.flip(0, -1) if x.dim() > 1 else x.flip(0)
    random = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * random - 1).to(x) * (x.abs().max() if bool(x.any()) else 1)


def _surrounded(x: Tensor, place: _Place) -> Tensor:
    """A batch with others around it: code that knows images by their place gives them something else here."""
    other = _other(torch.cat([x, x, x])[: place.total - place.few])
    return torch.cat([other[: place.before], x, other[place.before :]])


def _between(small: Tensor, large: Tensor, batch: tuple[int, int], place: _Place) -> Tensor:
    """``large`` with ``small`` in the place of the images."""
    dimension, rows = batch
    before, _, behind = large.split(
        [rows * n for n in (place.before, place.few, place.total - place.before - place.few)], dimension
    )
    return torch.cat([before, small, behind], dimension)


def _same_function(traced: Any, original: Any, name: str, coarse: float) -> None:
    pairs = list(zip(tensors(traced), tensors(original), strict=False))
    if len(tensors(traced)) != len(tensors(original)) or not all(_close(a, b, coarse) for a, b in pairs):
        raise NotTraceable(
            f"{name} cannot be read as a static graph: the graph computes something else than the model: its code "
            "changes a value in place that is also read elsewhere, draws random numbers, or asks for the type of a "
            "value (isinstance); write the plain form"
        )


def _batch(small: Tensor, large: Tensor, place: _Place) -> tuple[int, int] | None:
    """The dimension that holds the images, in order, and the rows an image there; None where they are not apart."""
    if small.dim() != large.dim():
        return None
    changed = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
    if len(changed) != 1:
        return None
    (dimension,) = changed
    size = small.shape[dimension]
    rows = size // place.few
    if size % place.few or large.shape[dimension] != rows * place.total:
        return None
    return (dimension, rows) if _close(small, large.narrow(dimension, rows * place.before, size)) else None


def _shape(alone: Any, joined: Any, images: int, place: _Place) -> tuple[int, ...] | None:
    """The shape of a value for so many images, from those for few and for more."""
    if not isinstance(alone, Tensor):
        return None
    if not isinstance(joined, Tensor) or joined.dim() != alone.dim():
        return tuple(alone.shape)
    return tuple(
        small // place.few * images if large != small else small
        for small, large in zip(alone.shape, joined.shape, strict=True)
    )


def _close(a: Tensor, b: Tensor, coarse: float = 0.0) -> bool:
    """Equal but for rounding, which may depend on the batch size; ``coarse``: of a coarser type on the way."""
    if a.shape != b.shape:
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    finite = b[b.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    fine = a.dtype in {torch.float32, torch.float64} and coarse < torch.finfo(torch.bfloat16).eps / 10
    tolerance = 1000 * max(torch.finfo(a.dtype).eps, coarse) if fine else 0.05
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True))
