"""What tracing cannot see is measured: the graph computes what the model computes, and each image on its own.

A graph edge is a value that never changes, while Python code may change one in place under another name. And the
simulation puts time into dimension 0 beside the batch, so no operator may join images or move them elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, NotConvertible, NotTraceable

FEW = 2
"""Images of the example that the checks are run on."""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each node returned; an error names the node."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self.returned: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        try:
            self.returned[n] = super().run_node(n)
        except Exception as error:
            raise RuntimeError(f"{error} (at {n.target})") from error
        return self.returned[n]


@torch.no_grad()
def check(traced: fx.GraphModule, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Record every node's ``meta["shape"]`` on the inputs and run the checks, all in eval mode.

    Raises `InvalidArgument` where the network does not run on the inputs, `NotTraceable` where graph and model differ,
    `NotConvertible` where an image's value depends on its batch.
    """
    if len({x.shape[:1] for x in inputs}) != 1 or not inputs[0].dim() or not len(inputs[0]):
        raise InvalidArgument("example must hold at least one image, the batch in dimension 0 of every input")
    recorder = _Recorder(traced)
    try:
        recorder.run(*_copies(inputs))
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise InvalidArgument(f"the network does not run on an example of shape {shapes}: {error}") from error
    for node, value in recorder.returned.items():
        node.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
    del recorder
    few = tuple(x[:FEW] for x in inputs)
    alone = _Recorder(traced)
    try:
        output = alone.run(*_copies(few))
        _same_function(output, model(*_copies(few)), type(model).__name__)
        joined = _Recorder(traced)
        joined.run(*(torch.cat([x, _other(x)]) for x in few))
    except RuntimeError as error:
        raise NotConvertible(
            f"this network cannot be converted: it needs a batch of one certain size: {error}"
        ) from error
    _images_apart(alone.returned, joined.returned, len(few[0]))


def _copies(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs for one run: a network may change its input in place."""
    return tuple(x.detach().clone() for x in inputs)


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


def _images_apart(alone: dict[fx.Node, Any], joined: dict[fx.Node, Any], count: int) -> None:
    """Compare the same images' values in two batches, node by node, for all that depends on the input."""
    dependent: set[fx.Node] = set()
    for node, value in alone.items():
        if node.op == "placeholder" or any(read in dependent for read in node.all_input_nodes):
            dependent.add(node)
        if node not in dependent or node.op == "output":
            continue
        for small, large in zip(tensors(value), tensors(joined[node]), strict=True):
            same = small.shape[:1] == (count,) and large.shape == (2 * count, *small.shape[1:])
            if not (same and _close(small, large[:count])):
                raise NotConvertible(
                    f"this network cannot be converted: {node.target} at {node.name} joins the images of the batch, "
                    "or moves them out of dimension 0"
                )


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
