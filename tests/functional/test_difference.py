"""The difference rule against what it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qffs.functional import difference as module
from qffs.functional.difference import DifferenceState

Parts = Sequence[tuple[Tensor | None, Tensor | None]]


def difference(
    g: Callable[..., Tensor], state: DifferenceState, inputs: Parts, charge: Sequence[float]
) -> tuple[Tensor, DifferenceState]:
    """Of a g that gives one tensor."""
    (differences,), state = module.difference(lambda *x: (g(*x),), state, inputs, charge)
    return differences, state


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
    assert end.values is not None
    assert state.values is not None
    assert torch.equal(state.values[0], end.values[0])


def test_a_function_that_is_not_zero_at_zero() -> None:
    """The first increment starts from 0, not from g(0), so that the sum is g itself."""
    zeros = torch.zeros(3, 1, 1, dtype=torch.float64)
    increments, _ = difference(torch.exp, DifferenceState((zeros[0],), None), [(None, zeros)], (0.0,) * 3)
    assert increments.flatten().tolist() == pytest.approx([1.0, 0.0, 0.0], abs=0)


def test_several_results() -> None:
    """Each telescopes by itself, and the state holds each."""
    spikes, counts = random_counts(1, 6)
    start = DifferenceState((torch.zeros_like(spikes[0]),), None)
    (low, high), state = module.difference(lambda x: (x.amin(2), x.amax(2)), start, [(None, spikes)], (0.0,) * 6)
    assert torch.equal(low.sum(0), counts[-1].amin(2))
    assert torch.equal(high.sum(0), counts[-1].amax(2))
    assert state.values is not None
    assert torch.equal(state.values[1], counts[-1].amax(2))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_quotient_waits_for_its_divisor(cut: int) -> None:
    """0 / 0 and 1 / 0 on the way leave the value as it was; the sum is the quotient."""
    above = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).view(4, 1, 1)
    below = torch.tensor([0.0, 0.0, 2.0, -1.0], dtype=torch.float64).view(4, 1, 1)
    state = DifferenceState((torch.zeros(1, 1, dtype=torch.float64),) * 2, None)
    head, state = difference(torch.div, state, [(None, above[:cut]), (None, below[:cut])], (0.0,) * cut)
    tail, state = difference(torch.div, state, [(None, above[cut:]), (None, below[cut:])], (0.0,) * (4 - cut))
    assert torch.cat([head, tail]).flatten().tolist() == [0.0, 0.0, 1.0, 2.0]


def test_whole_numbers_are_there_from_the_start() -> None:
    """An index or a mask among the inputs is not charged bit by bit."""
    index = torch.tensor([[2]])
    values = torch.ones(3, 1, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    start = DifferenceState((torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.long)), None)
    inputs: Parts = [(None, values), (index, None)]
    taken, _ = difference(lambda x, i: x.gather(1, i), start, inputs, (0.3, 0.3, 0.4))
    assert taken.flatten().tolist() == [3.0, 3.0, 3.0]
