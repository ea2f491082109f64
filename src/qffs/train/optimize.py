"""What moves the weights: the optimizer, its learning rate by step, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training


def optimizer_of(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer of a network, its parameters in groups: weights, all the rest, and step sizes.

    Weights have two dimensions or more, and decay; biases and norms do not, nor do step sizes unless asked to. A
    group's ``peak`` is its highest learning rate.
    """
    step_sizes = {module.step_size for module in network.modules() if isinstance(module, Quantizer)}
    others = [p for p in network.parameters() if p.requires_grad and p not in step_sizes]
    rate, decay = training.learning_rate, training.weight_decay
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": decay, "peak": rate},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "peak": rate},
        {
            "params": [p for p in network.parameters() if p.requires_grad and p in step_sizes],
            "weight_decay": decay if training.step_size_weight_decay else 0.0,
            "peak": rate * training.step_size_learning_rate,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate)
    return torch.optim.SGD(groups, rate, training.momentum, nesterov=training.nesterov)


def rate(training: Training, done: int, steps_an_epoch: int) -> float:
    """The learning rate of the step after ``done`` steps, over the highest one.

    Rising, ``(done + 1) / w`` in the first w steps of warm-up; then ``(1 + cos(pi t)) / 2`` with t the share of the
    other steps that is done, or ``decay^(epochs done since)``, or 1.

    >>> recipe = Training(epochs=2, learning_rate=0.1, warmup_epochs=0.5)
    >>> [round(rate(recipe, done, 4), 3) for done in range(8)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    rising = round(training.warmup_epochs * steps_an_epoch)
    if done < rising:
        return (done + 1) / rising
    falling = max(1, training.epochs * steps_an_epoch - rising)
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * (done - rising) / falling)) / 2
    if training.schedule == "exponential":
        return float(training.decay ** ((done - rising) / steps_an_epoch))
    return 1.0


class Average:
    """The exponential moving average of a network's floating tensors, running statistics too.

    It begins with the weights after the first step, when every step size is set. After step t it is
    ``d a + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))``, so that the first ones do not stay in it for long.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._current = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take in the weights after step t = ``done``, counted from 0."""
        if not self.tensors:
            self.restore(self._current)
        average = get_ema_multi_avg_fn(min(self.decay, (1 + done) / (10 + done)))
        average(self.tensors, self._current, done)

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average into the network and the network's own weights where the average was."""
        for average, current in zip(self.tensors, self._current, strict=bool(self.tensors)):
            kept = current.clone()
            current.copy_(average)
            average.copy_(kept)

    def restore(self, tensors: list[Tensor]) -> None:
        """Go on from the tensors of another run."""
        self.tensors = [
            tensor.detach().to(current.device, copy=True)
            for tensor, current in zip(tensors, self._current, strict=bool(tensors))
        ]
