"""What a spiking network is given: inputs that fit it, or one sentence that says why they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from qffs.errors import Diverged, InvalidArgument, QffsError
from qffs.nn.inspect import empty_like
from qffs.spiking.operations import Operations

T = TypeVar("T")


def check_inputs(operations: Operations, inputs: tuple[Tensor, ...]) -> None:
    """Raise unless there is one tensor for each input of a network, all with the same batch in dimension 0.

    Raises `InvalidArgument`, and `Diverged` where a tensor holds NaN or infinity.
    """
    count = len(operations.inputs)
    if len(inputs) != count or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
        raise InvalidArgument(
            f"the network takes {count} tensors with a batch in dimension 0, one for each input; options "
            "are passed by name, as in steps=8"
        )
    if len({len(x) for x in inputs}) != 1:
        raise InvalidArgument(f"all inputs must have the same batch, not {[len(x) for x in inputs]}")
    cut = operations.cuts_at
    for x, size in zip(inputs, operations.inputs, strict=True):
        if cut is not None and tuple(x.shape[1:]) != size:
            raise InvalidArgument(
                f"this network cuts each image into rows of the batch (at {cut}), as many as images of {size} have, "
                f"not of {tuple(x.shape[1:])}: quantize it on an example of this size"
            )
    if not all(map(_finite, inputs)):
        raise Diverged("the input holds NaN or infinity")


def refuse_gradients(network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise `InvalidArgument` where gradients are asked for, which spikes do not have."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, *network.parameters())):
        raise InvalidArgument(
            "a spiking network has no gradients: train the quantized network, which has, and convert it again with "
            "qffs.to_spiking, or simulate under torch.no_grad()"
        )


def explain_failure(operations: Operations, inputs: tuple[Tensor, ...], simulate: Callable[[], T]) -> T:
    """Return what a simulation returns; raise `InvalidArgument`, in one sentence, where these inputs do not fit."""
    try:
        return simulate()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, (QffsError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in inputs)
        own = f"{', '.join(map(str, operations.inputs))} {empty_like(operations.network).dtype}"
        raise InvalidArgument(
            f"the network does not run on inputs of {shapes}; it was made for images of {own}: {error}"
        ) from error


def _finite(x: Tensor) -> bool:
    """Whether a tensor holds neither NaN, which its largest value would be, nor infinity."""
    if not x.numel() or not x.is_floating_point():
        return bool(torch.isfinite(x).all())
    return all(bool(torch.isfinite(each)) for each in x.aminmax())
