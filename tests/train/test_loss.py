"""Cross-entropy, smoothed labels, distillation: against their sums written out."""

from __future__ import annotations

import pytest
import torch

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training
from qffs.train.loss import loss_of, wrong_levels


@pytest.mark.parametrize(
    ("smoothing", "share", "τ"), [(0.0, 0.0, 1.0), (0.1, 0.0, 1.0), (0.1, 0.3, 4.0), (0.0, 1.0, 2.0)]
)
def test_the_sum_written_out(smoothing: float, share: float, τ: float) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 6, 5)
    labels = torch.arange(6) % 5
    training = Training(epochs=1, learning_rate=1, label_smoothing=smoothing, distillation=share, temperature=τ)
    target = (1 - smoothing) * torch.nn.functional.one_hot(labels, 5) + smoothing / 5
    entropy = -(target * logits.log_softmax(-1)).sum(-1).mean()
    p, q = (teacher / τ).softmax(-1), (logits / τ).softmax(-1)
    expected = (1 - share) * entropy + share * τ**2 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(loss_of(logits, labels, training, teacher), expected, rtol=1e-5, atol=1e-6)
    if share < 1:
        torch.testing.assert_close(loss_of(logits, labels, training), entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", [torch.tensor(0.5), torch.tensor([0.5, 0.25, 1.0])])
def test_the_levels_of_wrong_classes_are_penalized(unit: torch.Tensor) -> None:
    logits = torch.tensor([[2.0, 0.5, 1.0], [0.5, 1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    unit = unit.requires_grad_()
    steps = unit.detach().expand(3)
    expected = (0.5**2 / steps[1] + 1.0**2 / steps[2] + 0.5**2 / steps[0]) / 2
    penalty = wrong_levels(logits, labels, unit)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    assert unit.grad is None
    assert logits.grad is not None
    assert logits.grad[0, 0] == logits.grad[1, 1] == 0
    training = Training(epochs=1, learning_rate=1, level_penalty=0.3)
    output = Quantizer(7, channels=len(unit) if unit.dim() else None)
    output.set_step_size(unit.detach())
    with_penalty = loss_of(logits, labels, training, output=output)
    torch.testing.assert_close(with_penalty, loss_of(logits, labels, training) + 0.3 * expected)
    without = Training(epochs=1, learning_rate=1, level_penalty=0)
    assert loss_of(logits, labels, without, output=output) == loss_of(logits, labels, training)


def test_half_precision_logits_are_widened_first() -> None:
    logits, labels = torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([0])
    training = Training(epochs=1, learning_rate=1, distillation=0.5)
    loss = loss_of(logits.bfloat16(), labels, training, logits.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits, labels, training, logits), rtol=1e-6, atol=1e-6)  # exact in bf16
