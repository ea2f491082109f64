"""The batch axis of a node's value, ``site(node).batch``: the dimension that holds the images, and the rows per image.

Most values hold the images in dimension 0, with one row per image. Attention moves them to another dimension, and
windows cut an image into several rows. The steps of a simulation lie in the same dimension: all images of the first
step, then all images of the second step, and so on.
"""

from __future__ import annotations

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from qffs.graph.site import site


def dimension(node: fx.Node) -> int:
    """Return the dimension that holds the images."""
    index: int = site(node).batch[0]
    return index


def rows(node: fx.Node) -> int:
    """Return the number of rows per image in that dimension."""
    count: int = site(node).batch[1]
    return count


def axes(node: fx.Node) -> list[tuple[int, int]]:
    """Return the dimension of the images and the rows per image of every tensor that a node returns.

    Tensors that are the same for every batch hold no images, and are left out.
    """
    batch = site(node).batch
    if isinstance(batch, tuple) and list(map(type, batch)) == [int, int]:
        return [(batch[0], batch[1])]
    leaves = tree_leaves(batch, is_leaf=lambda each: isinstance(each, tuple) and all(type(e) is int for e in each))
    return [leaf for leaf in leaves if leaf]


def holds_several(node: fx.Node) -> bool:
    """Return whether the value of a signal holds several tensors."""
    return axes(node) != [site(node).batch]


def unfold_steps(tensor: Tensor, d: int, steps: int, images_first: bool = False) -> Tensor:
    """Return ``[T, ...]`` from a value whose dimension ``d`` holds the images of all steps.

    images_first: move the images to dimension 1, directly behind T; by default they stay in dimension ``d + 1``.
    """
    unfolded: Tensor = tensor.unflatten(d, (steps, -1))
    return unfolded.movedim((d, d + 1), (0, 1 if images_first else d + 1))


def fold_steps(tensor: Tensor, d: int, images_first: bool = False) -> Tensor:
    """Return the value whose steps `unfold_steps` has separated; the arguments are the same as there."""
    if images_first:
        return tensor.flatten(0, 1).movedim(0, d)
    return tensor.movedim(0, d).flatten(d, d + 1)
