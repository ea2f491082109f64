"""The networks that come with the library, by name: ordinary PyTorch modules, which do not know of spikes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from qffs.errors import InvalidArgument
from qffs.models.digits import DigitsNet
from qffs.models.residual import POOLINGS, Block, CifarResNet, MLPerfResNet8
from qffs.models.vgg import CifarVGG

__all__ = ["MODELS", "Block", "CifarResNet", "CifarVGG", "DigitsNet", "MLPerfResNet8", "build"]

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "digits_net": DigitsNet,
    **{f"cifar_resnet{6 * blocks + 2}": partial(CifarResNet, 3 * (blocks,), False) for blocks in (3, 5, 7, 9, 18)},
    "cifar_resnet18": partial(CifarResNet, (2, 2, 2, 2), True, width=64),
    "cifar_vgg16": CifarVGG,
    "mlperf_resnet8": MLPerfResNet8,
}
"""The functions that build the untrained networks, by name.

Each takes ``classes``, ``channels`` and ``width``, and a ``pooling`` of `POOLINGS` if the network has pooling. The
``image_shape`` of the network is the shape ``(C, H, W)`` of one input image.
"""


def build(name: str, **arguments: Any) -> nn.Module:
    """Return the untrained network with a name in `MODELS`, built with these arguments.

    Raises `InvalidArgument` on any other name, with a list of the names; on an argument that is not a whole number of
    at least 1; and on a ``pooling`` that is not in `POOLINGS`.

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
