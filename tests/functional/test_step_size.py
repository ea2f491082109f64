"""Rules for step sizes against a search by brute force, and in any units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qffs.functional import lsq
from qffs.functional.step_size import percentile, squared_error


def sample(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4000, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.01])


def error(x: Tensor, step_size: Tensor, highest: int) -> Tensor:
    return (lsq.quantize(x, step_size, highest) - x.clamp_min(0)).square().sum(0)


@pytest.mark.parametrize("highest", [1, 3, 15])
def test_no_other_step_size_has_a_smaller_squared_error(highest: int) -> None:
    x = sample()
    best = squared_error(x, highest)
    for factor in torch.linspace(0.3, 3, 200):
        assert (error(x, best, highest) <= error(x, best * factor, highest) * 1.01).all()  # it tries 64 of them


def test_activations_on_levels_are_reproduced() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, -1.0])[:, None]
    assert squared_error(x, 3).item() == pytest.approx(0.25)
    assert error(x, squared_error(x, 3), 3).item() == 0


@pytest.mark.parametrize("rule", [squared_error, percentile])
def test_a_group_without_activations_above_zero_gets_zero(rule: object) -> None:
    x = torch.stack([torch.linspace(-2, 0, 50), torch.linspace(0, 2, 50)], 1)
    assert callable(rule)
    silent, other = rule(x, 3).tolist()
    assert silent == 0 < other


@pytest.mark.parametrize("rule", [squared_error, percentile])
def test_a_step_size_has_the_units_of_the_activations(rule: object) -> None:
    assert callable(rule)
    x, unit = sample(), 2.0**-80
    assert torch.equal(rule(x * unit, 7), unit * rule(x, 7))


def test_a_percentile_clips_one_in_a_thousand() -> None:
    x = sample()
    clipped = (x > 5 * percentile(x, 5)).sum(0)
    assert ((clipped >= 1) & (clipped <= 3)).all()  # a thousandth of 2000, which are above 0
