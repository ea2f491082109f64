"""Batch norm with the statistics of the whole batch, of which each process holds a part.

`torch.nn.SyncBatchNorm` does this only on GPUs, and is another class of module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qffs.errors import InvalidArgument
from qffs.train.distributed.group import gather, totals, world


@contextmanager
def synchronized(network: nn.Module) -> Iterator[None]:
    """Let batch norms in train mode use the statistics of all processes' batches until the block ends.

    Output, gradients and running statistics are then those of one process with the whole batch, whatever the sizes of
    the parts; a part may be empty. Modules, their classes and the keys of the state dict do not change, and with one
    process nothing changes. Every process has to call the same layers in the same order, in the backward pass too.
    Raises `InvalidArgument` for a class derived from batch norm that computes something else.
    """
    norms = list(_norms(network)) if world() > 1 else []
    for norm in norms:
        norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _norms(network: nn.Module) -> Iterator[_BatchNorm]:
    """Yield every batch norm of a network, except `torch.nn.SyncBatchNorm`."""
    for path, module in network.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
            continue
        if type(module).forward is not _BatchNorm.forward:
            raise InvalidArgument(f"{path}, a {type(module).__name__}, cannot be synchronized between processes")
        yield module


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Return the output of a batch norm, with the statistics of all processes in train mode: its new ``forward``."""
    if not norm.training:
        return _BatchNorm.forward(norm, x)
    norm._check_input_dim(x)
    mean, variance, count = _statistics(x.detach())
    # Reading the count waits for the GPU, so it is read only if it may be too small.
    if x.numel() <= x.shape[1] and float(count) <= 1:
        raise InvalidArgument("batch norm needs more than one value per channel to train: choose another batch size")
    if norm.track_running_stats:
        _update_running(norm, mean, variance * (count / (count - 1)))
    result: Tensor = _Normalize.apply(x, norm.weight, norm.bias, mean, variance, count, norm.eps)  # type: ignore[no-untyped-call]
    return result


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean ``[C]``, biased variance ``[C]`` and count ``[]`` of each channel's values over all processes.

    Each process sends its mean, variance and count in one message. They are combined after Chan, Golub and LeVeque
    (Updating formulae and a pairwise algorithm for computing sample variances, 1979).
    """
    channels, wide = x.shape[1], x.to(torch.promote_types(x.dtype, torch.float32))
    variance = mean = wide.new_zeros(channels)
    if x.numel():
        variance, mean = torch.var_mean(wide, _shared(x), correction=0)
    message = torch.cat([mean, variance, wide.new_full((1,), x.numel() // channels)])
    means, variances, counts = gather(message).split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    return mean, (counts * (variances + (means - mean) ** 2)).sum(0) / count, count


@torch.no_grad()
def _update_running(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics by the momentum; without one, to the mean over all batches so far."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


class _Normalize(torch.autograd.Function):
    """The function ``y = weight * v + bias`` with ``v = (x - mean) / sqrt(variance + eps)`` and its gradients.

    mean and variance are functions of x. With g the gradient of y, the gradient of x is
    ``weight / sqrt(variance + eps) * (g - mean(g) - v * mean(g * v))``, with means over the batches of all processes.
    The gradients of weight and bias are this process's part, which DDP adds up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.has_bias = bias is not None
        scale, shift = (None if each is None else each.to(mean.dtype) for each in (weight, bias))
        return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        shape = (-1, *(1,) * (x.dim() - 2))
        normal = (x - mean.view(shape)) * inverse.view(shape)
        gradient = gradients[0].to(mean.dtype)
        of_bias, of_weight = gradient.sum(_shared(x)), (gradient * normal).sum(_shared(x))
        sum_of_gradient, sum_with_normal = (each.view(shape) / count for each in totals(of_bias, of_weight))
        scale = inverse if weight is None else inverse * weight
        of_x = (gradient - sum_of_gradient - normal * sum_with_normal) * scale.view(shape)
        return (
            of_x.to(x.dtype),
            None if weight is None else of_weight.to(weight.dtype),
            of_bias.to(mean.dtype if weight is None else weight.dtype) if ctx.has_bias else None,
            *(None,) * 4,
        )


def _shared(x: Tensor) -> list[int]:
    """Return the dimensions over which a channel is summed: all but the dimension of channels."""
    return [dimension for dimension in range(x.dim()) if dimension != 1]
