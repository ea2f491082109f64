"""What training makes small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qffs.recipes.recipe import Training


def loss_of(logits: Tensor, labels: Tensor, training: Training, teacher: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits ``[B, classes]`` with smoothed labels ``[B]``, or a mix with distillation.

    With d the recipe's ``distillation`` and τ its temperature, ``(1 - d) CE(logits, labels) + d τ² KL(p || q)``, where
    p and q are the softmax of the teacher's and of the network's own logits over τ (Hinton, Vinyals, Dean, "Distilling
    the knowledge in a neural network", 2015); τ² keeps the gradient's size when τ changes.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    entropy = F.cross_entropy(logits.to(wide), labels, label_smoothing=training.label_smoothing)
    if teacher is None or not training.distillation:
        return entropy
    τ = training.temperature
    own, others = (F.log_softmax(each.to(wide) / τ, -1) for each in (logits, teacher))
    divergence = F.kl_div(own, others, reduction="batchmean", log_target=True)
    return (1 - training.distillation) * entropy + training.distillation * τ**2 * divergence
