"""Dspike: leaky neurons with a surrogate gradient whose steepness is chosen by finite differences of the loss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.nn.inspect import evaluating
from qffs.studies.methods.method import Activation, Method
from qffs.studies.methods.surrogate_gradient import EXTRA, deviation, neurons, spiking

STEPS, LEAK = 4, 0.5
FIRST, LEAST = 3, 1
"""The first steepness b, and the least."""
DIRECTIONS, LENGTH = 16, 0.05
"""The number of directions in which the first layer's weights are moved, and the length of a move per their norm."""


class Dspike(nn.Module):
    """A spike function with the gradient of ``(tanh(b (x - 1/2)) + tanh(b / 2)) / (2 tanh(b / 2))`` on 0 <= x <= 1.

    Its input is ``u - θ``, which is ``x - 1/2``.

    >>> u = torch.tensor([-0.6, 0.0, 0.4], requires_grad=True)
    >>> Dspike()(u).sum().backward()
    >>> u.grad
    tensor([0.0000, 1.6572, 0.5055])
    """

    def __init__(self) -> None:
        super().__init__()
        self.b: Tensor
        # A buffer, because a training that continues needs it; an integer, so that no moving average includes it.
        self.register_buffer("b", torch.tensor(FIRST))

    def forward(self, x: Tensor) -> Tensor:
        """Return 1 where x >= 0, else 0."""
        spikes: Tensor = _Fire.apply(x, float(self.b))  # type: ignore[no-untyped-call]
        return spikes


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, b: float) -> Tensor:
        context.save_for_backward(x)
        context.b = b
        return (x >= 0).to(x)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        (x,), b = context.saved_tensors, context.b
        slope = b / (2 * math.tanh(b / 2)) / torch.cosh(b * x.clamp(-0.5, 0.5)).square()
        return gradients[0] * slope * (x.abs() <= 0.5), None


def adapted(trained: nn.Module, modules: list[Any], x: Tensor, labels: Tensor) -> None:
    """Set the steepness to that of b - 1, b and b + 1 whose gradient agrees best with finite differences of the loss.

    The two are compared by their cosine, along random directions of the first layer's weights.
    """
    weight = next(p for p in trained.parameters() if p.dim() > 1)
    generator = torch.Generator().manual_seed(0)
    moves = torch.randn(DIRECTIONS, *weight.shape, generator=generator).to(weight)
    moves *= LENGTH * weight.detach().norm() / moves.flatten(1).norm(dim=1).view(-1, *[1] * weight.dim())

    def loss() -> Tensor:
        return F.cross_entropy(trained(x), labels)

    b = int(modules[0].surrogate_function.b)
    slopes: dict[int, Tensor] = {}
    with evaluating(trained):
        with torch.no_grad():
            differences = torch.stack([_after(weight, move, loss) - _after(weight, -move, loss) for move in moves])
        for candidate in (b, max(LEAST, b - 1), b + 1):
            _set(modules, candidate)
            (gradient,) = torch.autograd.grad(loss(), weight)
            slopes[candidate] = (moves * gradient).flatten(1).sum(1)
    _set(modules, max(slopes, key=lambda each: float(F.cosine_similarity(slopes[each], differences, dim=0))))


def _after(weight: Tensor, move: Tensor, loss: Any) -> Tensor:
    """Return the loss with moved weights; the weights are restored."""
    before = weight.clone()
    weight += move
    result: Tensor = loss()
    weight.copy_(before)
    return result


def _set(modules: list[Any], b: int) -> None:
    for module in modules:
        module.surrogate_function.b.fill_(b)


DSPIKE = Method(
    "dspike",
    "Dspike",
    "Li et al., NeurIPS 2021",
    "trains leaky neurons with reset; the surrogate gradient follows finite differences",
    Activation(
        f"leaky neurons over {STEPS} steps, reset",
        neurons(STEPS, Dspike, decay=LEAK),
        deviation,
        steps=STEPS,
        adapt=adapted,
        extra=EXTRA,
    ),
    spiking("zero"),
    notes=f"trained over {STEPS} steps from the network in full precision; thresholds are the standard deviation of "
    f"the first inputs, as their batch norm sets it; gradients are compared in {DIRECTIONS} directions",
)
