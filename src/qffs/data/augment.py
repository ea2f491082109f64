"""Random changes of the training images at each epoch, by classes of ``kornia.augmentation``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.errors import InvalidArgument

Arguments = Mapping[str, Any]

SHARED = {"forward_input_shape", "order", "idx"}
"""The parameters that are drawn once for a whole batch; the first dimension of all other parameters is the batch."""

REFUSED = {"RandomChannelDropout": "numbers the images of a whole batch, which several processes divide"}
"""The classes that cannot be applied to a part of a batch, each with the reason."""


class Augmentation:
    """A sequence of classes of ``kornia.augmentation`` with their arguments, applied one after the other.

    steps: one mapping of a class name to its arguments for each step, as in
    ``[{"RandomCrop": {"size": [32, 32], "padding": 4}}]``; lists among the arguments are passed as tuples.
    peak: the pixel value of full brightness, `Dataset.peak`.
    Raises `InvalidArgument` if kornia has no such class for images, if the class also changes labels, or if it refuses
    the arguments.
    """

    def __init__(self, steps: Sequence[Mapping[str, Arguments]], peak: float) -> None:
        self.peak = peak
        self.steps = [_build(name, arguments) for step in steps for name, arguments in step.items()]

    @torch.no_grad()
    def __call__(self, images: Tensor, total: int | None = None, part: slice | Tensor | None = None) -> Tensor:
        """Return the augmented images, uint8 ``[B, C, H', W']``, where H' and W' are the input size of the network.

        images: uint8 ``[B, C, H, W]``: the ``part`` (a slice, or indices) of a batch of ``total`` images, by default a
        whole batch. The random parameters are always drawn for the whole batch, from torch's global generator on the
        CPU, and only those of the part are applied. So the parts of one batch, each computed after the same seed, are
        together equal to the whole batch, for any number of parts.
        Raises `InvalidArgument` if a class cannot be applied to these images.
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
            except Exception as error:  # the type of the error depends on kornia
                name, size = type(step).__name__, " x ".join(map(str, shape[1:]))
                raise InvalidArgument(f"{name} cannot be applied to images of {size}: {_line(error)}") from error
            if 0 in x.shape[1:]:
                raise InvalidArgument(f"{type(step).__name__} returns images without pixels: choose another size")
        return (x.clamp(0, 1) * self.peak).round().to(torch.uint8)


def smaller(images: Tensor) -> Tensor:
    """Return images of three quarters of the height and width, rounded down, and at least one pixel.

    images: floating point ``[B, C, H, W]``. They are resized bilinearly, with antialiasing, in their memory format.

    >>> smaller(torch.ones(1, 3, 32, 33)).shape
    torch.Size([1, 3, 24, 24])
    """
    size = [max(1, side * 3 // 4) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def mixed(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return ``a x + (1 - a) y`` for each image x of a batch; y of the batch and a from 0 to 1 are random (mixup).

    Images ``[B, C, H, W]`` are first shifted by up to an eighth of their sides, all alike, and half of those with three
    channels are mirrored. Several inputs of a network are mixed alike. Where an input is no floating-point number, such
    as the number of a token, all are returned as they are.
    """
    if not all(x.is_floating_point() for x in inputs):
        return inputs
    count = len(inputs[0])
    share, other = torch.rand(count, generator=generator), torch.randperm(count, generator=generator)
    mirrored, shift = torch.rand(count, generator=generator) < 0.5, torch.rand(2, generator=generator)
    return tuple(_mixed(_moved(x, mirrored, shift.tolist()), share, other) for x in inputs)


def _moved(x: Tensor, mirrored: Tensor, shift: Sequence[float]) -> Tensor:
    if x.dim() != 4:
        return x
    most = [side // 8 for side in x.shape[2:]]
    top, left = (int(part * (2 * each + 1)) for part, each in zip(shift, most, strict=True))
    padded = F.pad(x, (most[1], most[1], most[0], most[0]))
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return x.where(~mirrored.to(x.device).view(-1, 1, 1, 1), x.flip(3)) if x.shape[1] == 3 else x


def _mixed(x: Tensor, share: Tensor, other: Tensor) -> Tensor:
    return x[other.to(x.device)].lerp(x, share.to(x).view(-1, *(1,) * (x.dim() - 1)))


def _cut(name: str, value: Any, part: slice | Tensor) -> Any:
    return value if name in SHARED or not isinstance(value, Tensor) else value[part]


def _build(name: str, arguments: Arguments) -> Any:
    """Return an object of the class with this name; raise `InvalidArgument` if it does not exist or cannot be used."""
    from kornia import augmentation  # imported only where it is used, because the import is slow

    kinds = {
        each: kind
        for each, kind in vars(augmentation).items()
        if inspect.isclass(kind) and issubclass(kind, augmentation.AugmentationBase2D) and not each.endswith("Base2D")
    }
    if name not in kinds:
        raise InvalidArgument(_absent(name, sorted(kinds), hasattr(augmentation, name)))
    if name in REFUSED:
        raise InvalidArgument(f"augmentation: {name} {REFUSED[name]}: leave it out")
    names = [each for each in inspect.signature(kinds[name]).parameters if each != "self"]
    for argument in arguments:
        if argument not in names:
            near = get_close_matches(argument, names) or names
            raise InvalidArgument(f"augmentation: {name} has no argument {argument!r}; there is {', '.join(near)}")
    share = arguments.get("p", 1.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise InvalidArgument(f"augmentation: {name} needs a p from 0 to 1, not {share!r}")
    try:
        return kinds[name](**{argument: _tuples(value) for argument, value in arguments.items()})
    except Exception as error:  # the type of the error depends on kornia
        raise InvalidArgument(f"augmentation: {name} cannot be made of these arguments: {_line(error)}") from error


def _absent(name: str, names: list[str], elsewhere: bool) -> str:
    if elsewhere:
        reason = "does not change one image at a time, label untouched, so it cannot be used here"
        return f"augmentation: kornia.augmentation.{name} {reason}"
    near = get_close_matches(name, names) or names
    return f"augmentation: kornia.augmentation has no {name!r}; there is {', '.join(near)}"


def _tuples(value: Any) -> Any:
    """Return lists as tuples, because kornia takes tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _line(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
