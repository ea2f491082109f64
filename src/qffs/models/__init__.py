"""Networks that come with the library, by name. Ordinary PyTorch: nothing in them knows of spikes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from qffs.errors import InvalidArgument
from qffs.models.digits import DigitsNet
from qffs.models.residual import POOLINGS, Block, CifarResNet
from qffs.models.vgg import CifarVGG

__all__ = ["MODELS", "Block", "CifarResNet", "CifarVGG", "DigitsNet", "build"]

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "digits_net": DigitsNet,
    **{f"cifar_resnet{6 * blocks + 2}": partial(CifarResNet, 3 * (blocks,), False) for blocks in (3, 5, 7, 9, 18)},
    "cifar_resnet18": partial(CifarResNet, (2, 2, 2, 2), True, width=64),
    "cifar_vgg16": CifarVGG,
}
"""What each name builds, untrained, of any ``classes``, ``channels`` and ``width``, and of a ``pooling`` in `POOLINGS`
where it pools; ``image_shape`` is that of an image it takes."""


def build(name: str, **arguments: Any) -> nn.Module:
    """The untrained network of a name in `MODELS`, with these arguments.

    Raises `InvalidArgument` on any other name, listing them, and on an argument that is no whole number above 0.

    >>> sum(parameter.numel() for parameter in build("cifar_resnet20").parameters())
    269722
    """
    if name not in MODELS:
        raise InvalidArgument(f"there is no model {name!r}; there are {', '.join(MODELS)}")
    takes_pooling = "pooling" in inspect.signature(MODELS[name]).parameters
    for argument, value in arguments.items():
        if argument == "pooling" and takes_pooling:
            if value not in POOLINGS:
                raise InvalidArgument(f"pooling of {name} must be one of {', '.join(POOLINGS)}, not {value!r}")
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidArgument(f"{argument} of {name} must be a whole number of at least 1, not {value!r}")
    return MODELS[name](**arguments)
