"""The error of outputs: relative, the mean of several, without what has no error."""

from __future__ import annotations

import math

import pytest
import torch

from qffs.train.error import error, sizes


def test_the_error_is_relative_to_the_size_in_full_precision() -> None:
    y, t = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [3.0, 2.0]])
    assert float(error([y], [t], sizes((t,)))) == pytest.approx(5 / 15)
    other = torch.ones(2, 3)
    assert float(error([y, 2 * other], [t, other], sizes((t, other)))) == pytest.approx((5 / 15 + 1) / 2)


def test_whole_numbers_and_numbers_that_are_not_finite_have_no_error() -> None:
    y, t, numbers = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.arange(1)
    alone = error([y], [t], sizes((t,)))
    assert torch.equal(error([numbers, y], [numbers, t], sizes((numbers, t))), alone)
    masked = [torch.cat([x, torch.full((1, 1), -math.inf)], 1) for x in (y, t)]
    assert torch.equal(error(masked[:1], masked[1:], sizes((masked[1],))), alone)
    assert float(error([numbers], [numbers], sizes((numbers,)))) == 0
