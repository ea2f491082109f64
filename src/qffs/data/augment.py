"""Training images made different each time they are seen, by classes of ``kornia.augmentation``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from qffs.errors import InvalidArgument

Arguments = Mapping[str, Any]

SHARED = {"forward_input_shape", "order", "idx"}
"""The parameters that are drawn once for a whole batch; of all others the first dimension is the batch."""

REFUSED = {"RandomChannelDropout": "numbers the images of a whole batch, which several processes divide"}
"""Classes whose parameters cannot be cut into those of a part of the batch."""


class Augmentation:
    """Classes of ``kornia.augmentation`` with their arguments, applied one after the other.

    steps: one name with its arguments in each place, as in ``[{"RandomCrop": {"size": [32, 32], "padding": 4}}]``;
    lists among the arguments are given as tuples. peak: the pixel value of full brightness, `Dataset.peak`.
    Raises `InvalidArgument` where there is no such class for images, it changes labels too, or it refuses arguments.
    """

    def __init__(self, steps: Sequence[Mapping[str, Arguments]], peak: float) -> None:
        self.peak = peak
        self.steps = [_made(name, arguments) for step in steps for name, arguments in step.items()]

    @torch.no_grad()
    def __call__(self, images: Tensor, total: int | None = None, part: slice | Tensor | None = None) -> Tensor:
        """The images augmented, uint8 ``[B, C, H', W']``: the size of the result is the size the network will see.

        images: uint8 ``[B, C, H, W]``, which are ``part`` (a slice, or numbers) of a batch of ``total`` images. The
        parameters of the whole batch are drawn, from torch's global generator of the CPU, and those of the part
        applied: so parts of one batch, each after the same seed, together equal the batch, however many there are.
        Raises `InvalidArgument` where a class cannot be applied to such images.
        """
        if not self.steps:
            return images
        total, part = len(images) if total is None else total, slice(None) if part is None else part
        x = images.float() / self.peak
        for step in self.steps:
            shape = torch.Size((total, *x.shape[1:]))
            try:
                parameters = step.forward_parameters(shape)
                x = step(x, params={name: _cut(name, value, part) for name, value in parameters.items()})
            except Exception as error:  # which one is up to kornia
                name, size = type(step).__name__, " x ".join(map(str, shape[1:]))
                raise InvalidArgument(f"{name} cannot be applied to images of {size}: {_line(error)}") from error
            if 0 in x.shape[1:]:
                raise InvalidArgument(f"{type(step).__name__} leaves nothing of images: its size is 0")
        return (x.clamp(0, 1) * self.peak).round().to(torch.uint8)


def _cut(name: str, value: Any, part: slice | Tensor) -> Any:
    return value if name in SHARED or not isinstance(value, Tensor) else value[part]


def _made(name: str, arguments: Arguments) -> Any:
    """The object of a class by its name."""
    from kornia import augmentation  # imported where one is made: it takes longer than all else here

    kinds = {
        each: kind
        for each, kind in vars(augmentation).items()
        if inspect.isclass(kind) and issubclass(kind, augmentation.AugmentationBase2D) and not each.endswith("Base2D")
    }
    if name not in kinds:
        raise InvalidArgument(_absent(name, sorted(kinds), hasattr(augmentation, name)))
    if name in REFUSED:
        raise InvalidArgument(f"augmentation: {name} {REFUSED[name]}: leave it out")
    known = [each for each in inspect.signature(kinds[name]).parameters if each != "self"]
    for argument in arguments:
        if argument not in known:
            near = get_close_matches(argument, known) or known
            raise InvalidArgument(f"augmentation: {name} has no argument {argument!r}; there is {', '.join(near)}")
    share = arguments.get("p", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InvalidArgument(f"augmentation: {name} needs a p from 0 to 1, not {share!r}")
    try:
        return kinds[name](**{argument: _tuples(value) for argument, value in arguments.items()})
    except Exception as error:  # which one is up to kornia
        raise InvalidArgument(f"augmentation: {name} cannot be made of these arguments: {_line(error)}") from error


def _absent(name: str, known: list[str], elsewhere: bool) -> str:
    if elsewhere:
        reason = "does not change one image at a time, label untouched, so it cannot be used here"
        return f"augmentation: kornia.augmentation.{name} {reason}"
    near = get_close_matches(name, known) or known
    return f"augmentation: kornia.augmentation has no {name!r}; there is {', '.join(near)}"


def _tuples(value: Any) -> Any:
    """Lists as tuples, which is what kornia takes."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _line(error: Exception) -> str:
    """An error of kornia in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
