"""The loss that training minimizes, and the term that it adds for outputs that spike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training


def loss_of(logits: Tensor, labels: Tensor, training: Training, teacher: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of logits ``[B, classes]`` and labels ``[B]``, or its mix with distillation.

    Labels are smoothed as the recipe says. With a teacher, whose logits are ``[B, classes]``, the loss is
    ``(1 - d) CE(logits, labels) + d τ² KL(p || q)``: d is the recipe's ``distillation``, τ its ``temperature``, and p
    and q are the softmax of the teacher's and the network's logits divided by τ (Hinton, Vinyals, Dean, "Distilling the
    knowledge in a neural network", 2015). The factor τ² keeps the size of the gradient when τ changes.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    entropy = F.cross_entropy(logits.to(wide), labels, label_smoothing=training.label_smoothing)
    if teacher is None or not training.distillation:
        return entropy
    τ = training.temperature
    student, target = (F.log_softmax(each.to(wide) / τ, -1) for each in (logits, teacher))
    divergence = F.kl_div(student, target, reduction="batchmean", log_target=True)
    return (1 - training.distillation) * entropy + training.distillation * τ**2 * divergence


def wrong_levels(x: Tensor, labels: Tensor, output: Quantizer) -> Tensor:
    """Return the mean over images of ``sum_c k_c x_c`` over all classes c but the label's, with constant levels k.

    x: ``[B, classes]`` in the shape of the output, what its quantizer reads (see `recorded`); k: its levels. The
    gradient of x is k, in any units of x, also where x is above the highest level; the step size has none.

    An output neuron sends at most one spike per step: after T steps its count is at most T, and classes with levels
    from T on can tie. Cross-entropy alone leaves the levels of wrong classes high, as long as the right one is higher.
    This term lowers them.

    >>> quantizer = Quantizer(highest=7)
    >>> quantizer.set_step_size(0.5)
    >>> wrong_levels(torch.tensor([[3.5, 1.5, 0.5]]), torch.tensor([0]), quantizer)  # 3 * 1.5 + 1 * 0.5
    tensor(5.)
    """
    with torch.no_grad():
        levels = output.level(x)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (levels * wide).flatten(1).scatter(1, labels[:, None], 0.0).sum(1).mean()


@contextmanager
def recorded(output: Quantizer | None) -> Iterator[list[Tensor]]:
    """Yield a list that holds what a quantizer read in its last call; without a quantizer it stays empty."""
    last: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        last[:] = arguments[:1]

    handle = None if output is None else output.register_forward_pre_hook(keep)
    try:
        yield last
    finally:
        if handle is not None:
            handle.remove()
