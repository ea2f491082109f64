"""The loss that training minimizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training


def loss_of(
    logits: Tensor, labels: Tensor, training: Training, teacher: Tensor | None = None, output: Quantizer | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits ``[B, classes]`` and labels ``[B]``, or its mix with distillation.

    output: the quantizer of an output that spikes, whose `wrong_levels` are added times the ``level_penalty``.
    Labels are smoothed as the recipe says. With a teacher, whose logits are ``[B, classes]``, the loss is ``(1 - d)
    CE(logits, labels) + d τ² KL(p || q)``: d is the recipe's ``distillation``, τ its ``temperature``, and p and q are
    the softmax of the teacher's and the network's logits divided by τ (Hinton, Vinyals, Dean, "Distilling the knowledge
    in a neural network", 2015). The factor τ² keeps the size of the gradient when τ changes.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    loss = F.cross_entropy(logits.to(wide), labels, label_smoothing=training.label_smoothing)
    if teacher is not None and training.distillation:
        loss = (1 - training.distillation) * loss + training.distillation * _divergence(logits, teacher, training)
    if output is not None and training.level_penalty:
        loss = loss + training.level_penalty * wrong_levels(logits.to(wide), labels, output.step_size)
    return loss


def _divergence(logits: Tensor, teacher: Tensor, training: Training) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    τ = training.temperature
    student, target = (F.log_softmax(each.to(wide) / τ, -1) for each in (logits, teacher))
    return τ**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)


def wrong_levels(logits: Tensor, labels: Tensor, unit: Tensor) -> Tensor:
    """Return the mean over images of ``sum_c k_c y_c``: c are all classes but the label's, and ``k_c = y_c / s``.

    logits: y, ``[B, classes]``, the values of an output that spikes, so that the levels k are whole; unit: its step
    size s, a scalar or ``[classes]``, which gets no gradient. The gradient of y is 2 k, in any units of y.

    An output neuron sends at most one spike per step: after T steps its count is at most T, and classes with levels
    from T on tie. Cross-entropy alone leaves the levels of wrong classes high, as long as the right one is higher. This
    term lowers them.

    >>> wrong_levels(torch.tensor([[3.5, 1.5, 0.5]]), torch.tensor([0]), torch.tensor(0.5))
    tensor(5.)
    """
    wrong = logits.scatter(1, labels[:, None], 0.0)
    return (wrong.square() / unit.detach()).sum(1).mean()
