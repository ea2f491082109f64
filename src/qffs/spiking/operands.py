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
from qffs.graph.nested import Nested
from qffs.graph.site import Kind
from qffs.kernels.layer import DIMENSIONS
from qffs.spiking.operations import Operation, Operations
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

    operations: Operations
    read: Callable[[fx.Node], Edge[Any]]
    images: int
    steps: int
    rows: int
    zeros: Zeros | None = None

    def plain(self, node: fx.Node) -> Edge[Nested]:
        """Return both parts of a node that is no signal: a constant itself, of a call each part's."""
        if node.op == "get_attr":
            value: Nested = operator.attrgetter(str(node.target))(self.operations.network)
            return Edge(value, value)
        return Edge(self.apply(node, CONSTANT), self.apply(node, INCREMENTS))

    def linear(self, node: fx.Node, part: Part) -> Nested:
        """Return one part of a linear operator, a sum or a join; None where all that it reads of it is zero."""
        if self.is_zero(node, part):
            return None
        if part == INCREMENTS and self.operations.of[node].kind is Kind.SUM:
            (only, *others) = self._present(node, part)
            if not others and self._adds_nothing(node, only):
                increments: Nested = self.read(only).increments
                return increments
        return self.apply(node, part)

    def constant(self, node: fx.Node) -> Nested:
        """Return the constant part of a linear operator, a sum or a join, as `linear` does, with less memory.

        A sum takes none of its own where one operand alone has a constant part, which is broadcast (a bias, say, for
        those who add it up), or where a bias is added in place to what a layer made of the input and no other node
        reads.
        """
        plain = self.operations.of[node].operator == "add" and len(node.args) == 2 and not node.kwargs
        total = self._sum_of_two(node) if plain else None
        return self.linear(node, CONSTANT) if total is None else total

    def _sum_of_two(self, node: fx.Node) -> Tensor | None:
        one, other = node.args
        a, b = (self.read(n).constant if isinstance(n, fx.Node) else n for n in node.args)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            fits = a.dtype == b.dtype and broadcasts_to(b.shape, a.shape)
            return a.add_(b) if fits and _is_spent(one, self.operations) else None
        absent, there = (one, b) if a is None else (other, a)
        if not self.operations.of[node].added_up or not isinstance(absent, fx.Node):
            return None
        zeros = self._zeros_of(absent, CONSTANT)
        if zeros is None or not isinstance(there, Tensor) or zeros.dtype != there.dtype:
            return None
        total: Tensor = torch.broadcast_tensors(there, zeros)[0]
        return total

    def is_zero(self, node: fx.Node, part: Part) -> bool:
        """Return whether no signal that a node reads has a part, nor a tensor of its own adds to it."""
        return not self._present(node, part) and not (part == CONSTANT and self._has_constants(node))

    def apply(self, node: fx.Node, part: Part) -> Nested:
        """Apply a node to one part of its arguments, with zeros for the part that a signal lacks."""
        of = self.operations.of
        kind, selects = of[node].kind, of[node].selects
        # A constant part may be that of a single image, which a sum broadcasts; who joins or shapes needs the batch.
        shaped = kind is Kind.PLAIN or len(of[node].reads) > 1 or of[node].reads_shape
        in_full = part == CONSTANT and kind is not Kind.SUM and (shaped or kind is Kind.JOIN)

        def argument(read: fx.Node) -> Nested:
            value = self.read(read)[part]
            if not of[read].signal:
                # A tensor among signals belongs to the constant part; a mask chooses among signals and is none of them.
                adds = kind in {Kind.SUM, Kind.JOIN} and isinstance(value, Tensor) and read not in selects
                return torch.zeros_like(value) if part == INCREMENTS and adds else value
            if part == INCREMENTS and read in selects:  # a mask of the input, the same at every step
                mask = whole(self.read(read).constant, of[read], self.images)
                return torch.cat([mask] * self.steps, of[read].dimension)
            if value is None:
                value = self._zeros_of(read, part)
            return whole(value, of[read], self.images) if in_full and isinstance(value, Tensor) else value

        return call(self.operations.network, node, argument)

    def _zeros_of(self, read: fx.Node, part: Part) -> Tensor | None:
        return (self.zeros or self._like_other_part)(read, part)

    def _present(self, node: fx.Node, part: Part) -> list[fx.Node]:
        return [read for read in self.operations.of[node].reads if self.read(read)[part] is not None]

    def _has_constants(self, node: fx.Node) -> bool:
        """Whether a sum or a join has a tensor among its arguments that is no signal."""
        of = self.operations.of
        others = (read for read in node.all_input_nodes if not of[read].signal)
        return of[node].kind in {Kind.SUM, Kind.JOIN} and any(
            isinstance(self.read(read).constant, Tensor) for read in others
        )

    def _adds_nothing(self, node: fx.Node, only: fx.Node) -> bool:
        """Whether a sum's increments are those of its first operand as they are, not even broadcast."""
        of = self.operations.of
        if only is not node.args[0] or of[node].operator == "rsub":
            return False
        size = self.read(only).increments.shape
        added = (each for each in node.all_input_nodes if each is not only)
        tensors = [each for each in added if of[each].signal or isinstance(self.read(each)[INCREMENTS], Tensor)]
        return all(broadcasts_to(self._shape(each), size) for each in tensors)  # what is no tensor is a factor

    def _shape(self, read: fx.Node) -> tuple[int, ...]:
        """The shape that a value without increments has beside increments."""
        constant, increments = self.read(read)
        operation = self.operations.of[read]
        return shape(constant, operation, 1) if operation.signal else tuple(increments.shape)

    def _like_other_part(self, read: fx.Node, part: Part) -> Tensor | None:
        (constant, increments), operation = self.read(read), self.operations.of[read]
        if part == CONSTANT and isinstance(increments, Tensor):
            return increments.new_zeros(()).expand(shape(increments, operation, operation.rows))
        if part == INCREMENTS and isinstance(constant, Tensor):
            return constant.new_zeros(()).expand(shape(constant, operation, self.rows * operation.rows))
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


def shape(tensor: Tensor, operation: Operation, count: int) -> tuple[int, ...]:
    """Return the shape of a tensor with ``count`` rows in the dimension where this operation holds the images."""
    return tuple(count if d == operation.dimension else size for d, size in enumerate(tensor.shape))


def whole(tensor: Tensor, operation: Operation, images: int) -> Tensor:
    """Return a value for ``images`` images: as it is, or repeated where it has one row or the rows of fewer images.

    Raises `RuntimeError` where the rows of the whole batch are not a multiple of the rows of ``tensor``.
    """
    d = operation.dimension
    count, have = images * operation.rows, tensor.shape[d]
    if have == count:
        return tensor
    if have == 1:
        return tensor.expand(shape(tensor, operation, count))
    if not have or count % have:
        raise RuntimeError(f"a batch of {images} does not fit {tuple(tensor.shape)} at {operation.name}")
    return tensor.repeat([count // have if each == d else 1 for each in range(tensor.dim())])


def _is_spent(node: Any, operations: Operations) -> bool:
    """Return whether the value of a node is a new tensor that a single node reads, so that it may be overwritten."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or not operations.of[node].signal:
        return False
    module = operations.network.get_submodule(str(node.target))
    return type(module) in DIMENSIONS and len(node.users) == 1 and not module._forward_hooks
