"""What tracing cannot see is measured: the graph computes what the model computes, and each image on its own.

A graph edge is a value that never changes, while Python code may change one in place under another name. And the
simulation puts time beside the batch, so every operator must keep the images apart, whichever dimension holds them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotTraceable

FEW = 2
"""Images of the example that the checks are run on."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each node returned, and the node that failed, if one does."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.extra_traceback = False
        self.returned: dict[fx.Node, Any] = {}
        self.failed: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        try:
            self.returned[n] = super().run_node(n)
        except Exception:
            self.failed = n
            raise
        return self.returned[n]


@torch.no_grad()
def check(traced: fx.GraphModule, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Run the checks in eval mode; record in every node's ``meta`` what was found.

    ``shape``: of what it returns on the inputs, None for what is no tensor; ``batch``: the dimension that holds the
    images and how many rows each has there, in order (of several tensors, in their nesting; None where a value is the
    same for every batch); ``problem``: why the node cannot be converted, if so.
    Raises `InvalidArgument` where the inputs are no batches, `NotTraceable` where graph and model differ.
    """
    few, count = copies(inputs, FEW), min(FEW, len(inputs[0]))
    alone, joined = _Recorder(traced), _Recorder(traced)
    _same_function(alone.run(*few), model(*copies(inputs, FEW)), type(model).__name__)
    try:
        joined.run(*(torch.cat([x, _other(x)]) for x in copies(inputs, FEW)))
    except Exception as error:
        assert joined.failed is not None
        joined.failed.meta["problem"] = f"it needs a batch of one certain size: {error}"
    _compare(alone.returned, joined.returned, count, len(inputs[0]))


def refuse_inputs(inputs: tuple[Tensor, ...]) -> None:
    """Raise `InvalidArgument` unless every input is a batch, of the same number of images."""
    if len({x.shape[:1] for x in inputs}) != 1 or not inputs[0].dim() or not len(inputs[0]):
        raise InvalidArgument("example must hold at least one image, the batch in dimension 0 of every input")


def copies(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """The first images of the inputs for one run: a network may change its input in place."""
    return tuple(x[:count].detach().clone() for x in inputs)


def _other(x: Tensor) -> Tensor:
    """Other images of the same shape and type."""
    return x.flip(-1) / 2 if x.is_floating_point() else x.flip(-1)


def _same_function(traced: Any, original: Any, name: str) -> None:
    pairs = list(zip(tensors(traced), tensors(original), strict=False))
    if len(tensors(traced)) != len(tensors(original)) or not all(_close(a, b) for a, b in pairs):
        raise NotTraceable(
            f"{name} cannot be read as a static graph: the graph computes something else than the model, so its code "
            "changes a value in place that is also read elsewhere, or draws random numbers; write the plain form"
        )


def _compare(alone: dict[fx.Node, Any], joined: dict[fx.Node, Any], count: int, images: int) -> None:
    """Compare the same images' values in two batches, node by node, until something is wrong with what a node reads."""
    dependent: set[fx.Node] = set()
    wrong: set[fx.Node] = set()
    for node, value in alone.items():
        if node.op == "placeholder" or any(read in dependent for read in node.all_input_nodes):
            dependent.add(node)
        if "problem" in node.meta or any(read in wrong for read in node.all_input_nodes):
            wrong.add(node)
        node.meta["batch"] = None
        if node in dependent and node not in wrong and node in joined and node.op != "output":
            node.meta["batch"] = _batches(value, joined[node], count)
            problem = _problem(node, value, alone)
            if problem:
                node.meta["problem"] = problem
                wrong.add(node)
        node.meta["shape"] = _shape(value, node.meta["batch"], images)


def _batches(value: Any, joined: Any, count: int) -> Any:
    found = iter([_batch(small, large, count) for small, large in zip(tensors(value), tensors(joined), strict=True)])
    return fx.node.map_aggregate(value, lambda leaf: next(found) if isinstance(leaf, Tensor) else None)


def _problem(node: fx.Node, value: Any, alone: dict[fx.Node, Any]) -> str | None:
    dimensions = node.meta["batch"]
    found = [dimensions] if isinstance(value, Tensor) else [d for _, d in leaves(value, dimensions)]
    if None in found:
        return "it joins the images of the batch, or mixes their order"
    of_floats = any(x.is_floating_point() for read in node.all_input_nodes for x in tensors(alone[read]))
    if isinstance(value, Tensor) and not value.is_floating_point() and of_floats:
        return "it makes whole numbers of its input: the least rounding error would decide its result"
    return None


def leaves(value: Any, beside: Any) -> list[tuple[Tensor, Any]]:
    """The tensors of a value, each with its counterpart in a structure of the same nesting."""
    if isinstance(value, Tensor):
        return [(value, beside)]
    if isinstance(value, dict):
        return [pair for key in value for pair in leaves(value[key], beside[key])]
    if isinstance(value, (tuple, list)):
        return [pair for each, other in zip(value, beside, strict=True) for pair in leaves(each, other)]
    return []


def _batch(small: Tensor, large: Tensor, count: int) -> tuple[int, int] | None:
    """The dimension that holds the images, in order, and the rows an image there; None where they are not apart."""
    if small.dim() != large.dim():
        return None
    changed = [d for d in range(small.dim()) if small.shape[d] != large.shape[d]]
    if len(changed) != 1:
        return None
    (dimension,) = changed
    size = small.shape[dimension]
    if large.shape[dimension] != 2 * size or size % count or not _close(small, large.narrow(dimension, 0, size)):
        return None
    return dimension, size // count


def _shape(value: Any, batch: tuple[int, int] | None, images: int) -> tuple[int, ...] | None:
    """The shape of a value for so many images."""
    if not isinstance(value, Tensor):
        return None
    dimension, rows = batch or (None, 0)
    return tuple(rows * images if d == dimension else size for d, size in enumerate(value.shape))


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, which may depend on the batch size."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    scale = float(b.abs().max()) if b.numel() else 0.0
    tolerance = 1000 * torch.finfo(a.dtype).eps if a.dtype in {torch.float32, torch.float64} else 0.05
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True))


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a value, whatever its nesting, in order."""
    found: list[Tensor] = []

    def keep(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        return leaf

    fx.node.map_aggregate(value, keep)
    return found
