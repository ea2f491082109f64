"""Cross-entropy, smoothed labels, distillation: against their sums written out."""

from __future__ import annotations

import pytest
import torch

from qffs.nn.quantizer import Quantizer
from qffs.recipes.recipe import Training
from qffs.train.loss import loss_of, recorded, wrong_levels


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


@pytest.mark.parametrize("steps", [[0.5], [0.5, 0.25, 1.0]])
def test_the_levels_of_wrong_classes_are_lowered(steps: list[float]) -> None:
    output = Quantizer(3, channels=len(steps) if len(steps) > 1 else None)
    output.set_step_size(torch.tensor(steps).squeeze())
    s = torch.tensor(steps).expand(3)
    x = (s * torch.tensor([[2.0, 1.1, 9.0], [3.0, 1.0, -1.0]])).requires_grad_()
    with recorded(output) as charge:
        output(x)
    penalty = wrong_levels(charge[0], torch.tensor([0, 1]), output)
    torch.testing.assert_close(penalty, (1.1 * s[1] + 3 * 9 * s[2] + 3 * 3 * s[0]) / 2)
    penalty.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0.5, 1.5], [1.5, 0, 0]]  # half of the levels 1, 3 and 3, also above the highest
    assert output.step_size.grad is None


def test_nothing_is_recorded_without_a_quantizer_or_after_the_block() -> None:
    with recorded(None) as charge:
        pass
    assert charge == []
    output = Quantizer(3)
    output.set_step_size(1.0)
    with recorded(output) as charge:
        output(torch.zeros(2, 3))
        output(torch.ones(2, 3))
    output(torch.zeros(2, 3))
    (last,) = charge
    assert last.tolist() == torch.ones(2, 3).tolist()


def test_half_precision_logits_are_widened_first() -> None:
    logits, labels = torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([0])
    training = Training(epochs=1, learning_rate=1, distillation=0.5)
    loss = loss_of(logits.bfloat16(), labels, training, logits.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits, labels, training, logits), rtol=1e-6, atol=1e-6)  # exact in bf16
