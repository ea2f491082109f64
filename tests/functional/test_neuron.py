"""The neuron against the laws of the method."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qffs.functional.lsq import level
from qffs.functional.neuron import NeuronState, fire, rest, step
from qffs.method import FiringRule, Schedule

# Charges in 64ths with thresholds in 8ths: every sum is exact in float64, and ties between levels are common.
charges = st.lists(st.integers(-512, 512).map(lambda k: k / 64), min_size=1, max_size=12)
thresholds = st.integers(1, 16).map(lambda k: k / 8)
highests = st.integers(1, 7)


def column(values: list[float]) -> Tensor:
    """Increments [T, B, units] of a single unit."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def run(values: list[float], threshold: float, n: int, rule: FiringRule | None = None) -> tuple[Tensor, NeuronState]:
    rule = rule or FiringRule()
    increments, θ = column(values), torch.tensor(threshold, dtype=torch.float64)
    state = rest(increments[0], θ, 0.5 if rule.precharge is None else rule.precharge)
    return fire(state, None, increments, (0.0,) * len(values), θ, n, rule)


@given(charges, thresholds, highests)
def test_charge_balance(values: list[float], threshold: float, n: int) -> None:
    """Law 1: u_t + θ Z_t = u_0 + Σ I, exactly, at every step."""
    θ = torch.tensor(threshold, dtype=torch.float64)
    state, total = rest(torch.zeros(1, 1, dtype=torch.float64), θ, 0.5), threshold / 2
    for value in values:
        _, state = step(state, torch.full((1, 1), value, dtype=torch.float64), θ, n)
        total += value
        assert state.potential.item() + threshold * state.sent.item() == total
        assert 0 <= state.sent.item() <= n


@given(charges, thresholds, highests, st.randoms(use_true_random=False))
def test_a_settled_neuron_counts_its_level(values: list[float], threshold: float, n: int, order: random.Random) -> None:
    """Law 2: whatever the order of arrival, Z = clip(floor(Q/θ + 1/2), 0, n) after the charge and n more steps."""
    order.shuffle(values)
    _, state = run(values + [0.0] * n, threshold, n)
    charge = sum(Fraction(value) for value in values)
    assert state.sent.item() == min(max(math.floor(charge / Fraction(threshold) + Fraction(1, 2)), 0), n)


@given(charges, thresholds, highests)
def test_a_settled_neuron_is_silent(values: list[float], threshold: float, n: int) -> None:
    """An exact tie does not flip for ever, as it would with a negative spike at u <= 0."""
    spikes, _ = run(values + [0.0] * (n + 4), threshold, n)
    assert not spikes[-4:].any()


def test_an_unsigned_neuron_depends_on_the_order_of_arrival() -> None:
    """Law 2 is about the signed neuron: the paper's two examples of occasional noise leave the unsigned one wrong."""
    unsigned = FiringRule(negative_spikes=False)
    fired_early = [1.0] * 8 + [-2.0] * 2 + [0.0] * 10
    assert run(fired_early, 1.0, 10, unsigned)[1].sent == 8
    assert run(fired_early, 1.0, 10)[1].sent == 4
    assert run([-1.0] * 9 + [13.0], 1.0, 10)[1].sent == 1  # settled only when time goes on
    assert run([-1.0] * 9 + [13.0] + [0.0] * 3, 1.0, 10)[1].sent == 4


def test_without_a_cap_the_count_passes_the_highest_level() -> None:
    assert run([1.0] * 6, 1.0, 3, FiringRule(cap=False))[1].sent == 6
    assert run([1.0] * 6, 1.0, 3)[1].sent == 3


def test_without_precharge_the_neuron_rounds_down() -> None:
    assert run([0.9, 0.0], 1.0, 3, FiringRule(precharge=0.0))[1].sent == 0
    assert run([0.9, 0.0], 1.0, 3)[1].sent == 1


@given(charges, thresholds, highests, st.integers(-3, 3))
def test_scale(values: list[float], threshold: float, n: int, exponent: int) -> None:
    """Law 4 for one layer: charges and threshold times the same factor give the same spikes."""
    factor = 2.0**exponent
    scaled, _ = run([factor * value for value in values], factor * threshold, n)
    assert torch.equal(scaled, run(values, threshold, n)[0])


@given(charges, thresholds, highests, st.integers(1, 12))
def test_chunks(values: list[float], threshold: float, n: int, cut: int) -> None:
    """A run that is cut in two and goes on from the state is the same run."""
    θ, increments = torch.tensor(threshold, dtype=torch.float64), column(values)
    whole, end = run(values, threshold, n)
    head, state = run(values[:cut], threshold, n)
    if values[cut:]:
        tail, state = fire(state, None, increments[cut:], (0.0,) * len(values[cut:]), θ, n)
        head = torch.cat([head, tail])
    assert torch.equal(head, whole)
    assert torch.equal(state.potential, end.potential)


@given(
    st.lists(st.integers(-64, 64), min_size=1, max_size=6),
    st.sampled_from([Schedule.uniform(1), Schedule.uniform(2), Schedule.uniform(4), Schedule((0.5, 0.25, 0.25))]),
    highests,
)
def test_a_constant_is_charged_by_the_schedule_and_then_off(units: list[int], schedule: Schedule, n: int) -> None:
    constant = torch.tensor([units], dtype=torch.float64) / 8
    θ, steps = torch.tensor(1.0, dtype=torch.float64), schedule.steps + n
    state = rest(constant, θ, 0.5)
    spikes, end = fire(state, constant, None, schedule.over(steps), θ, n)
    assert spikes.shape == (steps, 1, len(units))
    assert torch.equal(end.potential + end.sent, constant + 0.5)
    assert torch.equal(end.sent, level(constant, θ, n))


@pytest.mark.parametrize("multi_step", [False, True])
@given(charges, thresholds, highests)
def test_equal_to_stbif(multi_step: bool, values: list[float], threshold: float, n: int) -> None:
    """Bit for bit the signed neuron of SpikingJelly, whose potential is ours in units of the threshold."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    # It computes in float32 and divides each input by the threshold: eighths of the threshold stay exact.
    increments = (column(values) * threshold).float()
    peer = neuron.STBIFNode(threshold, level=n + 1, step_mode="m" if multi_step else "s")
    theirs = peer(increments) if multi_step else torch.stack([peer(current) for current in increments])
    θ = torch.tensor(threshold)
    spikes, state = fire(rest(increments[0], θ, 0.5), None, increments, (0.0,) * len(values), θ, n)
    assert torch.equal(spikes * θ, theirs)
    assert torch.equal(state.sent, peer.acc_q)
    assert torch.equal(state.potential, peer.q * θ)
