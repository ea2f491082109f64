"""The update of the weights: the optimizer, its learning rate by step, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training


def optimizer_of(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return the optimizer of a network with three groups of parameters: weights, other parameters, and step sizes.

    Weights have two dimensions or more, and weight decay acts on them. It does not act on biases and norms, and on step
    sizes only with ``step_size_weight_decay``. The ``peak`` of a group is its highest learning rate.
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


FEWEST = 20
"""The least training steps of an epoch: with fewer, the schedule and the moving average have little to act on."""


def few_steps(images: int, batch_size: int) -> str:
    """Return advice on a training with so many images per epoch; an empty text where it has steps enough.

    >>> few_steps(images=1000, batch_size=128)
    'an epoch has only 8 training steps: use a smaller batch_size, such as 25'
    """
    steps = math.ceil(images / batch_size)
    smaller = max(1, min(32, images // (2 * FEWEST)))
    few = steps < FEWEST and smaller < batch_size
    return f"an epoch has only {steps} training steps: use a smaller batch_size, such as {smaller}" if few else ""


def rate(training: Training, done: int, steps_an_epoch: int) -> float:
    """Return the learning rate of the step after ``done`` steps, divided by the highest learning rate.

    It is ``(done + 1) / w`` in the w steps of warm-up. Then it is ``(1 + cos(pi t)) / 2`` for "cosine", where t is the
    share of the steps after warm-up that are done; ``decay^(epochs since warm-up)`` for "exponential"; and 1 for
    "constant".

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
    """The exponential moving average of a network's floating-point tensors, including running statistics.

    It begins with the weights after the first step, when every step size is set. Step t makes it ``d a + (1 - d) w``,
    where a is the average, w the weights and ``d = min(decay, (1 + t) / (10 + t))``, so that the first weights do not
    stay in it for long.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._current = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
        self.tensors: list[Tensor] = []

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Add the weights after step t = ``done``, counted from 0, to the average."""
        if not self.tensors:
            self.restore(self._current)
        average = get_ema_multi_avg_fn(min(self.decay, (1 + done) / (10 + done)))
        average(self.tensors, self._current, done)

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange the weights of the network and the average."""
        for average, current in zip(self.tensors, self._current, strict=bool(self.tensors)):
            weights = current.clone()
            current.copy_(average)
            average.copy_(weights)

    def restore(self, tensors: list[Tensor]) -> None:
        """Set the average to the saved tensors of a run that continues."""
        self.tensors = [
            tensor.detach().to(current.device, copy=True)
            for tensor, current in zip(tensors, self._current, strict=bool(tensors))
        ]
