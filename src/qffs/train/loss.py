"""The loss that training minimizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
