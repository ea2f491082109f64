"""Every call in one form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qffs
from qffs.errors import NotConvertible, NothingToQuantize


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_model_that_is_a_batch_norm_has_nothing_to_quantize(dimensions: int) -> None:
    norm = getattr(nn, f"BatchNorm{dimensions}d")(6)
    with pytest.raises(NothingToQuantize):
        qffs.quantize(norm, example=torch.randn(4, 6, *(3,) * dimensions))


def test_a_model_of_a_class_derived_from_a_batch_norm_is_to_be_wrapped() -> None:
    class Activated(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    x = torch.randn(16, 6)
    with pytest.raises(NotConvertible, match=r"it would not learn its statistics: .* a model that contains it"):
        qffs.quantize(Activated(6), example=x)
    qann = qffs.quantize(nn.Sequential(Activated(6)), example=x)
    qann.train()(x)
    assert qann.get_buffer("0.running_mean").abs().sum() > 0
