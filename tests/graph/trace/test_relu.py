"""Every spelling of a ReLU becomes a module of its own, and so a quantizer; what only looks like one does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import NotConvertible
from qffs.graph.trace.trace import trace


def written(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    return x


def filled(x: Tensor) -> Tensor:
    x = x + 0
    x.masked_fill_(x <= 0, 0.0)
    return x


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "maximum of zeros_like": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of a constant": lambda x: torch.maximum(torch.tensor(0.0), x),
    "maximum of zeros": lambda x: x.maximum(torch.zeros(1)),
    "maximum of zeros without dimensions": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum of new zeros": lambda x: torch.maximum(x, x.new_zeros(1)),
    "maximum of a full tensor": lambda x: torch.max(x, torch.full_like(x, 0)),
    "maximum of zeros of its shape": lambda x: torch.maximum(x, torch.zeros(x.shape, dtype=x.dtype)),
    "maximum of new zeros of its size": lambda x: torch.maximum(x.new_zeros(x.size()), x),
    "max of a cast constant": lambda x: torch.max(x, torch.tensor(0).to(x)),
    "max, by method": lambda x: x.max(torch.zeros_like(x)),
    "clamp": lambda x: torch.clamp(x, 0.0, None),
    "clamp by a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "clamp up to infinity": lambda x: x.clamp(0, float("inf")),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_min in place": lambda x: (x + 0).clamp_min_(0),
    "clip": lambda x: torch.clip(x, min=0),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, float("inf")),
    "where": lambda x: torch.where(x > 0, x, 0),
    "where, a number": lambda x: torch.where(x >= 0, x, 0.0),
    "where, zeros": lambda x: torch.where(x.gt(0), x, torch.zeros_like(x)),
    "where, below": lambda x: torch.where(x < 0, torch.tensor(0.0, dtype=torch.float64), x),
    "where, turned": lambda x: torch.where(torch.lt(torch.zeros_like(x), x), x, 0),
    "where, not below": lambda x: torch.where(~(x < 0), x, 0),
    "where, not above": lambda x: torch.where((x > 0).logical_not(), 0.0, x),
    "where, by method": lambda x: x.where(x > 0, torch.zeros_like(x)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill in place": filled,
    "written": written,
    "times a mask": lambda x: x * (x > 0),
    "a mask times": lambda x: (x >= 0) * x,
    "times a cast mask": lambda x: x * (x > 0).double(),
    "times a whole mask": lambda x: x * (x > 0).int(),
    "times a mask of its type": lambda x: x.mul((x > 0).to(x.dtype)),
    "times a mask like it": lambda x: torch.mul((x > 0).type_as(x), x),
    "half the sum with its size": lambda x: (x + x.abs()) / 2,
    "half the sum, by a factor": lambda x: 0.5 * (torch.abs(x) + x),
    "without its lower part": lambda x: x - x.clamp(max=0),
    "without the lesser of it and 0": lambda x: torch.sub(x, torch.minimum(torch.zeros_like(x), x)),
    "without what clamp_max leaves": lambda x: x - torch.clamp_max(x, 0.0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "threshold by name": lambda x: F.threshold(x, threshold=0, value=0),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.0),
    "leaky_relu by name": lambda x: F.leaky_relu(x, negative_slope=0),
    "a leaky module": nn.LeakyReLU(0.0),
    "a threshold module": nn.Threshold(0, 0),
    "an endless module": nn.Hardtanh(0.0, float("inf")),
}


class Spelled(nn.Module):
    def __init__(self, spelling: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.head, self.spelling = nn.Linear(6, 8), nn.Linear(8, 3), spelling

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spelling(self.layer(x)))


@pytest.mark.parametrize("name", SPELLINGS)
def test_it_becomes_one_quantizer(name: str) -> None:
    torch.manual_seed(0)
    model, x = Spelled(SPELLINGS[name]).double(), torch.randn(16, 6, dtype=torch.float64)
    traced = trace(model, x)
    assert [type(module) for module in traced.modules()].count(nn.ReLU) == 1
    assert torch.equal(traced(x), model.head(model.layer(x).relu()))
    qann = calibrated(model, x, output="analog")
    snn = qffs.to_spiking(qann)
    qffs.verify(qann, snn, x)
    assert len(list(snn.neurons())) == 1
    assert not any(row.values for row in qffs.plan(model, x).rows)


def test_an_input_may_be_called_relu() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)

        def forward(self, relu: Tensor) -> Tensor:
            return self.layer(relu)

    assert nn.ReLU not in map(type, trace(Named(), torch.randn(4, 6)).modules())


@pytest.mark.parametrize(
    "clipped",
    [
        lambda x: x.clamp(torch.tensor(0.0), torch.tensor(0.5)),
        lambda x: x.clamp(torch.zeros_like(x), torch.full_like(x, 0.5)),
        lambda x: F.hardtanh(x, 0, 0.5),
        lambda x: torch.clip(x, min=0, max=0.5),
    ],
)
def test_a_clip_by_a_constant_is_a_clipped_relu(clipped: Any) -> None:
    model, x = Spelled(clipped).double(), torch.randn(16, 6, dtype=torch.float64)
    traced = trace(model, x)
    assert [module.max_val for module in traced.modules() if isinstance(module, nn.Hardtanh)] == [0.5]
    assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("name", SPELLINGS)
def test_its_gradient_is_that_of_the_relu(name: str) -> None:
    spelling = SPELLINGS[name]
    if isinstance(spelling, nn.Module):
        spelling = type(spelling)(*{"LeakyReLU": (0.0,), "Threshold": (0, 0)}.get(type(spelling).__name__, (0.0, 9.0)))
    x = torch.tensor([[-2.0, -0.5, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(spelling(x).sum(), x)
    assert gradient.tolist() == [[0, 0, 1, 1]]


class Weight(nn.Module):
    """A maximum with a buffer or a weight that is 0 now, and may change."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        zero = torch.zeros(())
        if learned:
            self.zero = nn.Parameter(zero)
        else:
            self.register_buffer("zero", zero)

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.zero)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.maximum(x, torch.ones_like(x)),
        lambda x: torch.maximum(x, torch.zeros(4, 1, 1)),
        lambda x: torch.maximum(x, torch.full_like(x, 0.5)),
        lambda x: torch.maximum(x, torch.zeros_like(x[:, :1])),
        lambda x: x.clamp(min=-1),
        lambda x: x.max(0 if x.dim() == 1 else 1, keepdim=True).values + x,
        lambda x: (x + x.abs()) / 3,
        lambda x: (x + (x + 1).abs()) / 2,
        F.leaky_relu,
        lambda x: F.leaky_relu(x, 0.1),
        nn.LeakyReLU(),
        Weight(learned=True),
        Weight(learned=False),
    ],
)
def test_what_only_looks_like_one_stays(other: Any) -> None:
    model, x = Spelled(other).double(), torch.randn(16, 6, dtype=torch.float64)
    traced = trace(model, x)
    assert nn.ReLU not in map(type, traced.modules())
    torch.testing.assert_close(traced(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: torch.where(x > 1, x, 0),
        lambda x: torch.where(x > 0, 0, x),
        lambda x: torch.where(x < 0, x, 0),
        lambda x: x * (x < 0),
        lambda x: (x + 1) * (x > 0),
        lambda x: x.masked_fill(x > 0, 0),
        lambda x: x * (x > 0) * (x > 0),
    ],
)
def test_other_comparisons_of_signals_are_refused(other: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Spelled(other))
    with pytest.raises(NotConvertible, match="it jumps"):
        qffs.quantize(model, example=torch.randn(4, 6))
