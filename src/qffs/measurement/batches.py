"""Labeled images, some at a time, as a network's input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from qffs.data import Images, batches
from qffs.errors import InvalidArgument, QffsError
from qffs.nn.inspect import empty_like, evaluating
from qffs.spiking.network import SpikingNetwork
from qffs.train import distributed

Normalize = Callable[[Tensor], Tensor]

BATCH_PIXELS = 2**21
"""The most pixels that run at a time, counted at every step: of a network's features there are many times as many."""


@torch.no_grad()
def check_fit(network: nn.Module, images: Images, normalize: Normalize, classes: int, name: str) -> None:
    """Raise `InvalidArgument` unless a network (``name`` in the message) runs on the images and has enough outputs.

    Every process looks at the first image, so that all of them raise or none.
    """
    shape = " x ".join(map(str, images.shape))
    try:
        x = inputs(network, normalize(images.read(torch.tensor([0]))))
        with evaluating(network):
            output = network(x, steps=network.schedule.steps)[-1] if isinstance(network, SpikingNetwork) else network(x)
        outputs = output.shape[1:]
    except Exception as error:  # which one depends on the operator that does not fit
        if isinstance(error, QffsError) and not isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{name} does not run on images of {shape}: {error}") from error
    if len(outputs) != 1 or outputs[0] < classes:
        raise InvalidArgument(f"{name} returns {list(outputs)} numbers an image, but the data have {classes} classes")


def fitting(images: Images, most: int, steps: int = 1) -> int:
    """How many images to run at a time over some steps, at most ``most``."""
    return max(1, min(most, BATCH_PIXELS // (steps * math.prod(images.shape[1:]))))


def labeled(
    network: nn.Module, images: Images, normalize: Normalize, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of this process's share of the images, on the network's device; none where it has no image."""
    own = distributed.share(len(images))
    groups = own.split(batch_size) if len(own) else ()
    for pictures, labels in batches(images, groups, workers):
        x = inputs(network, normalize(pictures))
        yield x, labels.to(x.device)


def inputs(network: nn.Module, x: Tensor) -> Tensor:
    """X on the device and in the type of the network."""
    own = empty_like(network)
    return x.to(own.device, own.dtype)
