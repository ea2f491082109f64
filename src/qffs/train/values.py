"""The values of inputs and outputs for many images, computed in batches, in memory or in temporary files."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument, QffsError
from qffs.nn.inspect import empty_like

BATCH, FEWEST, NUMBERS = 128, 16, 2**22
"""The most and the fewest images of a batch, and the numbers in it from which on it has fewer than the most."""
IN_MEMORY = 2**29
"""The bytes up to which a tensor is kept in memory; larger ones are in temporary files, which the system caches."""

Values = tuple[Tensor, ...]
"""A tensor ``[N, ...]`` for each input or output: its values for N images."""


def gathered(batches: Iterable[Tensor | tuple[Tensor, ...]], count: int, task: str) -> Values:
    """Return each of the network's ``count`` inputs for all images; raises `InvalidArgument` for other batches.

    task: what they are for, in the words of the errors.
    """
    if isinstance(batches, Tensor):
        raise InvalidArgument(f"{task} takes several batches: give a list, even of one, such as [x]")
    tuples = [tuple(each) if isinstance(each, (tuple, list)) else (each,) for each in batches]
    if any(len(each) != count or not all(isinstance(x, Tensor) for x in each) for each in tuples):
        raise InvalidArgument(
            f"{task} takes batches of the network's {count} inputs alone, without labels, as in (x for x, y in loader)"
        )
    if any(len(x) != len(each[0]) for each in tuples for x in each):
        raise InvalidArgument("the inputs of a batch must have the same number of rows, one for each image")
    if not tuples:
        raise InvalidArgument(f"{task} takes at least one batch of inputs")
    try:
        return tuple(torch.cat(each).detach() for each in zip(*tuples, strict=True))
    except RuntimeError as error:
        raise InvalidArgument(f"the batches do not fit together: {error}") from error


def batch_size(inputs: Values, most: int = BATCH) -> int:
    """Return how many images a batch has: ``most``, or those of `NUMBERS` numbers in all, but at least `FEWEST`."""
    return max(FEWEST, min(most, NUMBERS // max(1, sum(x[0].numel() for x in inputs))))


def sample(inputs: Values, count: int) -> Values:
    """Return ``count`` of the images, chosen at random, the same in every call; all, if there are no more.

    The first ones are no sample: data is often in the order of its classes.
    """
    if len(inputs[0]) <= count:
        return inputs
    chosen = torch.randperm(len(inputs[0]), generator=torch.Generator().manual_seed(0))[:count]
    return tuple(x[chosen.to(x.device)] for x in inputs)


@torch.no_grad()
def values(network: nn.Module, inputs: Values) -> Values:
    """Return the outputs of a network that returns a tuple of tensors ``[B, ...]``, for all images.

    Raises `InvalidArgument` where an output does not hold one row per image in dimension 0.
    """
    results, start = list[Tensor](), 0
    for batch in in_batches(inputs, empty_like(network).device):
        outputs, count = _outputs(network, batch), len(batch[0])
        if any(len(output) != count for output in outputs):
            raise InvalidArgument("the outputs of the network must hold one row per image, in dimension 0")
        results = results or [_empty(y, len(inputs[0])) for y in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[start : start + count] = output
        start += count
    return tuple(results)


def in_batches(inputs: Values, device: torch.device) -> Iterator[Values]:
    """Yield the images on a device, in batches of `batch_size`."""
    for batch in zip(*(x.split(batch_size(inputs)) for x in inputs), strict=True):
        yield tuple(x.to(device) for x in batch)


def _outputs(network: nn.Module, batch: Values) -> Values:
    try:
        outputs: Values = network(*batch)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        shapes = " and ".join(str(tuple(x.shape)) for x in batch)
        raise InvalidArgument(f"the network does not run on a batch of {shapes}: {error}") from error
    return outputs


def _empty(like: Tensor, count: int) -> Tensor:
    """Return a tensor of ``count`` rows, laid out alike, in a temporary file where it is larger than `IN_MEMORY`."""
    shape, size = (count, *like.shape[1:]), count * math.prod(like.shape[1:])
    if size * like.element_size() <= IN_MEMORY:
        return laid_out(torch.empty(shape, dtype=like.dtype), like)
    with tempfile.NamedTemporaryFile() as file:  # a file that is mapped stays until the tensor is gone
        _reserve(file, size * like.element_size())
        flat = torch.from_file(file.name, shared=True, size=size, dtype=like.dtype)
    return flat.view(count, *shape[2:], shape[1]).movedim(-1, 1) if _channels_last(like) else flat.view(shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the space of a file from the disk: where it is full, writing to a mapped file would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):  # Linux; elsewhere files have their space only when they are written
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise InvalidArgument(
            f"{size / 2**30:.1f} GiB of values do not fit into {folder}: {error.strerror}; set TMPDIR to another folder"
        ) from error


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return a tensor with its channels last in memory where those of another are: convolutions are faster then."""
    return x.contiguous(memory_format=torch.channels_last) if _channels_last(like) else x


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
