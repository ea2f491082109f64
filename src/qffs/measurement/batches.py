"""Batches of labeled images as the input of a network."""

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
"""The most pixels in one batch, times the steps; the features of a network take many times as much memory."""


@torch.no_grad()
def check_fit(network: nn.Module, images: Images, normalize: Normalize, classes: int, name: str) -> int:
    """Return the number of outputs per image of a network.

    Raises `InvalidArgument` unless it runs on the images and has at least one output for each class.
    name: the name of the network in the message. Every process checks the first image, so either all processes raise
    or none.
    """
    shape = " x ".join(map(str, images.shape))
    try:
        x = inputs(network, normalize(images.read(torch.tensor([0]))))
        with evaluating(network):
            output = network(x, steps=network.schedule.steps)[-1] if isinstance(network, SpikingNetwork) else network(x)
        outputs = output.shape[1:]
    except Exception as error:  # the type depends on the operator that does not fit
        if isinstance(error, QffsError) and not isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{name} does not run on images of {shape}: {error}") from error
    if len(outputs) != 1 or outputs[0] < classes:
        raise InvalidArgument(f"{name} returns {list(outputs)} numbers per image, but the data have {classes} classes")
    return int(outputs[0])


def fitting(images: Images, most: int, steps: int = 1) -> int:
    """Return the number of images per batch for a run of ``steps`` steps: at least 1, at most ``most``."""
    return max(1, min(most, BATCH_PIXELS // (steps * math.prod(images.shape[1:]))))


def labeled(
    network: nn.Module, images: Images, normalize: Normalize, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of this process's share of the images, batch by batch, on the device of the network.

    Yields nothing where this process has no images.
    """
    numbers = distributed.share(len(images))
    groups = numbers.split(batch_size) if len(numbers) else ()
    for pictures, labels in batches(images, groups, workers):
        x = inputs(network, normalize(pictures))
        yield x, labels.to(x.device)


def inputs(network: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` on the device and in the type of the network."""
    empty = empty_like(network)
    return x.to(empty.device, empty.dtype)
