"""Where a node's value holds the images of a batch, ``site(node).batch``: in which dimension, and how many rows each.

Most hold them in dimension 0, one row an image. Attention turns them elsewhere, and windows cut an image into rows. The
steps of a simulation lie in the same dimension: all images of the first, then all of the second, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from qffs.graph.site import site


def dimension(node: fx.Node) -> int:
    """The dimension that holds the images."""
    found: int = site(node).batch[0]
    return found


def rows(node: fx.Node) -> int:
    """How many rows an image has there."""
    found: int = site(node).batch[1]
    return found


def places(node: fx.Node) -> list[tuple[int, int]]:
    """Dimension and rows of every tensor that a node returns, for those that hold images."""
    found = site(node).batch
    if isinstance(found, tuple) and list(map(type, found)) == [int, int]:
        return [(found[0], found[1])]
    leaves = tree_leaves(found, is_leaf=lambda each: isinstance(each, tuple) and all(type(e) is int for e in each))
    return [leaf for leaf in leaves if leaf]


def holds_several(node: fx.Node) -> bool:
    """Return whether the value of a signal holds several tensors."""
    return places(node) != [site(node).batch]


def shape(tensor: Tensor, node: fx.Node, count: int) -> tuple[int, ...]:
    """The shape of a tensor, with ``count`` rows where this node holds the images."""
    return tuple(count if d == dimension(node) else size for d, size in enumerate(tensor.shape))


def whole(tensor: Tensor, node: fx.Node, images: int) -> Tensor:
    """A value that may be that of one image, or the same in every row, for so many images."""
    count, have = images * rows(node), tensor.shape[dimension(node)]
    if have == count:
        return tensor
    if have == 1:
        return tensor.expand(shape(tensor, node, count))
    if not have or count % have:
        raise RuntimeError(f"a batch of {images} does not fit {tuple(tensor.shape)} at {node.name}")
    return tensor.repeat([count // have if d == dimension(node) else 1 for d in range(tensor.dim())])


def every_step(tensor: Tensor, node: fx.Node, images: int, steps: int) -> Tensor:
    """A value that is the same at every step, beside those of all steps."""
    return torch.cat([whole(tensor, node, images)] * steps, dimension(node))


def unfold_steps(tensor: Tensor, d: int, steps: int, images_first: bool = False) -> Tensor:
    """``[T, ...]`` from a value whose dimension ``d`` holds the images of all steps; the images after T if asked."""
    unfolded: Tensor = tensor.unflatten(d, (steps, -1))
    return unfolded.movedim((d, d + 1), (0, 1 if images_first else d + 1))


def fold_steps(tensor: Tensor, d: int, images_first: bool = False) -> Tensor:
    """The inverse of `unfold_steps`."""
    if images_first:
        return tensor.flatten(0, 1).movedim(0, d)
    return tensor.movedim(0, d).flatten(d, d + 1)
