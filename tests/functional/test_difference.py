"""The difference rule against what it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qffs.functional.difference import DifferenceState, difference


def random_counts(seed: int, steps: int, n: int = 3) -> tuple[Tensor, Tensor]:
    """Spikes [T, 2, 3, 6, 6] in {-1, 0, 1} whose running counts stay in 0..n, and the counts."""
    generator = torch.Generator().manual_seed(seed)
    counts = [torch.zeros(2, 3, 6, 6, dtype=torch.float64)]
    for _ in range(steps):
        jump = torch.randint(-1, 2, counts[-1].shape, generator=generator)
        counts.append((counts[-1] + jump).clamp(0, n))
    stacked = torch.stack(counts)
    return stacked.diff(dim=0), stacked[1:]


@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1)]))
def test_max_pooling_telescopes(seed: int, steps: int, window: tuple[int, int, int]) -> None:
    """Law 3: the increments add up to maxpool(Z_t) at every step, and each is -1, 0 or 1."""

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, *window)

    spikes, counts = random_counts(seed, steps)
    start = DifferenceState((torch.zeros_like(spikes[0]),), None)
    increments, _ = difference(pool, start, [(None, spikes)], (0.0,) * steps)
    for t in range(steps):
        assert torch.equal(increments[: t + 1].sum(0), pool(counts[t]))
    assert set(increments.unique().tolist()) <= {-1, 0, 1}


def test_pooling_the_spikes_themselves_is_wrong() -> None:
    """What other tools do, on the smallest example: the window's winner sent one spike, the pooled spikes count two."""
    spikes = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
    start = DifferenceState((torch.zeros(1, 1, 2),), None)
    increments, _ = difference(lambda x: F.max_pool1d(x, 2), start, [(None, spikes)], (0.0, 0.0))
    assert increments.sum() == 1
    assert sum(F.max_pool1d(spike, 2).sum() for spike in spikes) == 2


@given(st.integers(0, 10**6), st.integers(1, 7))
def test_chunks_and_several_inputs(seed: int, cut: int) -> None:
    """A product of two signals, one of them charged, adds up to the product; cut in two it is the same run."""
    spikes, counts = random_counts(seed, 8)
    constant = torch.arange(3.0, dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 6, 6)
    charge = (0.5, 0.25, 0.25, 0, 0, 0, 0, 0)
    inputs = [(None, spikes), (constant, spikes)]
    start = DifferenceState((torch.zeros_like(spikes[0]),) * 2, None)
    whole, end = difference(torch.mul, start, inputs, charge)
    assert torch.equal(whole.sum(0), counts[-1] * (counts[-1] + constant))
    head, state = difference(torch.mul, start, [(c, s[:cut]) for c, s in inputs], charge[:cut])
    tail, state = difference(torch.mul, state, [(c, s[cut:]) for c, s in inputs], charge[cut:])
    assert torch.equal(torch.cat([head, tail]), whole)
    assert end.value is not None
    assert state.value is not None
    assert torch.equal(state.value, end.value)


def test_a_function_that_is_not_zero_at_zero() -> None:
    """The first increment starts from 0, not from g(0), so that the sum is g itself."""
    zeros = torch.zeros(3, 1, 1, dtype=torch.float64)
    increments, _ = difference(torch.exp, DifferenceState((zeros[0],), None), [(None, zeros)], (0.0,) * 3)
    assert increments.flatten().tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0)
