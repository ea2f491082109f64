"""First step sizes from a few batches."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, QffsError
from qffs.functional import lsq
from qffs.nn.modes import evaluating
from qffs.nn.quantizer import Quantizer


@torch.no_grad()
def calibrate(qann: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> nn.Module:
    """Set every step size of ``qann`` from a few batches, in place, and return ``qann``.

    Each becomes LSQ's first step size, ``2 * mean(abs(x)) / sqrt(n)``, over the activations x that reach the
    quantiser (or its channel, where each has a step size of its own) in all batches so far, in eval mode. While a
    batch runs, the quantisers before are already in force, so later layers see what they will see in use. batches:
    input tensors ``[B, ...]``, or tuples of inputs.
    Raises `InvalidArgument` without a quantiser or a batch, or where a batch is not the inputs; `Diverged` where NaN or
    infinity arrives. After an error all step sizes are what they were.
    """
    quantizers = [module for module in qann.modules() if isinstance(module, Quantizer)]
    if not quantizers:
        raise InvalidArgument("there is nothing to calibrate: the network has no quantiser; call qffs.quantize first")
    if isinstance(batches, Tensor):
        raise InvalidArgument("calibration takes several batches: give a list, even of one, such as [x]")
    sums = {quantizer: (torch.zeros((), dtype=torch.float64), 0) for quantizer in quantizers}
    hooks = [quantizer.register_forward_pre_hook(partial(_observe, sums)) for quantizer in quantizers]
    before = {quantizer: quantizer.step_size.detach().clone() for quantizer in quantizers}
    try:
        with evaluating(qann):
            for batch in batches:
                _run(qann, batch)
    except BaseException:
        for quantizer, step_size in before.items():
            quantizer.step_size.copy_(step_size)
            quantizer.forget()
        raise
    finally:
        for hook in hooks:
            hook.remove()
    if not all(count for _, count in sums.values()):
        raise InvalidArgument("calibration needs at least one batch of images")
    return qann


def _run(qann: nn.Module, batch: Any) -> None:
    inputs = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if isinstance(qann, fx.GraphModule):
        expected = len(qann.graph.find_nodes(op="placeholder"))
        if len(inputs) != expected or not all(isinstance(x, Tensor) and x.numel() for x in inputs):
            raise InvalidArgument(
                f"calibration takes batches of the network's {expected} inputs alone, without labels, as in "
                "(x for x, y in loader), and none of them empty"
            )
    try:
        qann(*inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        raise InvalidArgument(f"the network does not run on a batch of {tuple(inputs[0].shape)}: {error}") from error


def _observe(sums: dict[Quantizer, tuple[Tensor, int]], quantizer: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(quantizer, Quantizer)
    x, step_size = arguments[0], quantizer.step_size
    magnitude, count = sums[quantizer]
    magnitude = magnitude + lsq.total(x.abs(), step_size, torch.float64).cpu()
    count += x.numel() // step_size.numel()
    sums[quantizer] = magnitude, count
    quantizer.set_step_size_from(magnitude / count)
