"""The neuron module takes its numbers from the quantizer it stands for."""

from __future__ import annotations

import pytest
import torch

from qffs.method import FiringRule
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 0.5, 0.5001])
def test_from_quantizer(dtype: torch.dtype, offset: float) -> None:
    """Same n, θ = s, pre-charge = offset: the settled count is the level, in every type."""
    quantizer = Quantizer(5, offset)
    quantizer.set_step_size(0.3)
    neuron = Neuron.from_quantizer(quantizer.to(dtype), FiringRule())
    # No point lies on a threshold: float32 may round such a tie up in one of the two and down in the other.
    x = torch.linspace(-1, 2.5, 96).view(1, -1).to(dtype)
    spikes, state = neuron(neuron.rest(x), x, None, (1.0,) + (0.0,) * 5)
    assert neuron.threshold.dtype == dtype
    assert spikes.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(state.sent, quantizer.level(x))


def test_the_rule_is_handed_on() -> None:
    quantizer = Quantizer(2)
    quantizer.set_step_size(1.0)
    rule = FiringRule(negative_spikes=False, cap=False, precharge=0.25)
    neuron = Neuron.from_quantizer(quantizer, rule)
    assert neuron.rule == rule
    x = torch.tensor([[9.0, 0.8, 0.7]])
    _, state = neuron(neuron.rest(x), x, None, (1.0, 0.0, 0.0, 0.0))
    assert state.sent.tolist() == [[4, 1, 0]]


def test_a_step_size_below_zero_is_the_same_tiny_one_on_both_sides() -> None:
    quantizer = Quantizer(3)
    quantizer.step_size.data.fill_(-0.5)
    neuron = Neuron.from_quantizer(quantizer, FiringRule())
    assert neuron.threshold > 0
    x = torch.tensor([[1.0, -1.0]])
    _, state = neuron(neuron.rest(x), x, None, (1.0, 0.0, 0.0))
    assert torch.equal(state.sent, quantizer.level(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2)])
def test_each_channel_has_its_own_threshold(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The settled count is the level, channel by channel, in activations of any number of dimensions."""
    quantizer = Quantizer(5, channels=3)
    quantizer.set_step_size(torch.tensor([0.05, 0.3, 7.0]))
    quantizer.step_size.data[2] = -1.0  # as training may leave one
    neuron = Neuron.from_quantizer(quantizer.to(dtype), FiringRule(), shape)
    assert neuron.shape == (3,) + (1,) * (len(shape) - 2)
    assert neuron.threshold.dtype == dtype
    assert bool((neuron.threshold > 0).all())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    _, state = neuron(neuron.rest(x), x, None, (1.0,) + (0.0,) * 5)
    assert torch.equal(state.sent, quantizer.level(x))
    assert quantizer.step_size[2] == -1
