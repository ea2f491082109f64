"""What a node reads, one part of its edges at a time, and what its operator makes of that part.

A linear operator is applied to constants and increments apart: ``f(c + i) = f(c) + f(i)``, as every operator of a
folded graph maps 0 to 0. What a part lacks is zero, and mostly need not be computed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from qffs.functional.lsq import accumulation_dtype
from qffs.graph import batch_axis
from qffs.graph.call import choosing, signals
from qffs.graph.nested import Nested
from qffs.graph.site import Kind, site
from qffs.spiking.walk import Edge

Part = Literal[0, 1]
CONSTANT: Literal[0] = 0
INCREMENTS: Literal[1] = 1
"""The parts of an `Edge`, by their place in it."""

Zeros = Callable[[fx.Node, Part], "Tensor | None"]
"""The zeros that stand for a part which a signal lacks; None where it is no tensor."""


@dataclass(frozen=True)
class Operands:
    """What the nodes of a network read in a walk.

    ``read``: the edge of a node; ``images``, ``steps``: B and T; ``rows``: how many rows increments have, where a node
    holds one per image (T * B, or fewer where what repeats is there once); ``zeros``: see `Zeros`, by default of the
    shape that the other part has.
    """

    network: fx.GraphModule
    read: Callable[[fx.Node], Edge[Any]]
    images: int
    steps: int
    rows: int
    zeros: Zeros | None = None

    def plain(self, node: fx.Node) -> Edge[Nested]:
        """Return both parts of a node that is no signal: a constant itself, of a call each part's."""
        if node.op == "get_attr":
            value: Nested = operator.attrgetter(str(node.target))(self.network)
            return Edge(value, value)
        return Edge(self.apply(node, CONSTANT), self.apply(node, INCREMENTS))

    def linear(self, node: fx.Node, part: Part) -> Nested:
        """Return one part of a linear operator, a sum or a join; None where all that it reads of it is zero."""
        if self.is_zero(node, part):
            return None
        if part == INCREMENTS and site(node).kind is Kind.SUM:
            (only, *others) = self._present(node, part)
            if not others and self._adds_nothing(node, only):
                increments: Nested = self.read(only).increments
                return increments
        return self.apply(node, part)

    def is_zero(self, node: fx.Node, part: Part) -> bool:
        """Return whether no signal that a node reads has a part, nor a tensor of its own adds to it."""
        return not self._present(node, part) and not (part == CONSTANT and self._has_constants(node))

    def apply(self, node: fx.Node, part: Part) -> Nested:
        """Apply a node to one part of its arguments, with zeros for the part that a signal lacks."""
        kind, read = site(node).kind, signals(node)
        chooses = choosing(node)
        # A constant part may be that of a single image, which a sum broadcasts; who joins or shapes needs the batch.
        shaped = kind is Kind.PLAIN or len(read) > 1 or any(map(_is_shape, node.all_input_nodes))
        whole = part == CONSTANT and kind is not Kind.SUM and (shaped or kind is Kind.JOIN)

        def argument(read: fx.Node) -> Nested:
            value = self.read(read)[part]
            if not site(read).signal:
                # A tensor among signals belongs to the constant part; a mask chooses among signals and is none of them.
                adds = kind in {Kind.SUM, Kind.JOIN} and isinstance(value, Tensor) and read not in chooses
                return torch.zeros_like(value) if part == INCREMENTS and adds else value
            if part == INCREMENTS and read in chooses:  # a mask of the input, the same at every step
                return batch_axis.every_step(self.read(read).constant, read, self.images, self.steps)
            if value is None:
                value = (self.zeros or self._like_other_part)(read, part)
            return batch_axis.whole(value, read, self.images) if whole and isinstance(value, Tensor) else value

        return call(self.network, node, argument)

    def zeros_of(self, read: fx.Node, part: Part) -> Tensor | None:
        """Return the zeros that stand for a part which a signal lacks; None where that is no tensor."""
        return (self.zeros or self._like_other_part)(read, part)

    def _present(self, node: fx.Node, part: Part) -> list[fx.Node]:
        return [read for read in signals(node) if self.read(read)[part] is not None]

    def _has_constants(self, node: fx.Node) -> bool:
        """Whether a sum or a join has a tensor among its arguments that is no signal."""
        others = (read for read in node.all_input_nodes if not site(read).signal)
        return site(node).kind in {Kind.SUM, Kind.JOIN} and any(
            isinstance(self.read(read).constant, Tensor) for read in others
        )

    def _adds_nothing(self, node: fx.Node, only: fx.Node) -> bool:
        """Whether a sum's increments are those of its first operand as they are, not even broadcast."""
        if only is not node.args[0] or site(node).operator == "rsub":
            return False
        shape = self.read(only).increments.shape
        added = (each for each in node.all_input_nodes if each is not only)
        tensors = [each for each in added if site(each).signal or isinstance(self.read(each)[INCREMENTS], Tensor)]
        return all(broadcasts_to(self._shape(each), shape) for each in tensors)  # what is no tensor is a factor

    def _shape(self, read: fx.Node) -> tuple[int, ...]:
        """The shape that a value without increments has beside increments."""
        constant, increments = self.read(read)
        return batch_axis.shape(constant, read, 1) if site(read).signal else tuple(increments.shape)

    def _like_other_part(self, read: fx.Node, part: Part) -> Tensor | None:
        constant, increments = self.read(read)
        if part == CONSTANT and isinstance(increments, Tensor):
            return increments.new_zeros(()).expand(batch_axis.shape(increments, read, batch_axis.rows(read)))
        if part == INCREMENTS and isinstance(constant, Tensor):
            rows = self.rows * batch_axis.rows(read)
            return constant.new_zeros(()).expand(batch_axis.shape(constant, read, rows))
        return None


def call(network: fx.GraphModule, node: fx.Node, argument: Callable[[fx.Node], Any]) -> Any:
    """Return what the operator of a node makes of its arguments, nodes among them replaced as ``argument`` says."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), argument)
    if node.op == "call_module":
        return network.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in the type that sums are done in."""
    return tensor.to(accumulation_dtype(tensor.dtype)) if tensor.is_floating_point() else tensor


def broadcasts_to(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Return whether a tensor of a shape can be broadcast to a whole one.

    Unlike `torch.broadcast_shapes` it does not import sympy, which takes half a second.

    >>> broadcasts_to((3, 1), (2, 3, 4)), broadcasts_to((2, 3), (3,)), broadcasts_to((2,), (3,))
    (True, False, False)
    """
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(one in {1, other} for one, other in pairs)


def _is_shape(node: fx.Node) -> bool:
    return not site(node).signal and node.op != "get_attr"
