"""Which tensors of a network hold NaN or infinity where they must not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qffs.errors import Diverged
from qffs.nn.inspect import broken, check_finite
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer


def layers() -> nn.Sequential:
    quantizer = Quantizer(3, channels=2)
    quantizer.set_step_size(0.5)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), quantizer, Neuron(3))
    network.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    return network


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["0.weight", "1.bias", "1.running_mean", "1.running_var", "2.step_size", "3.threshold"]
)
def test_weights_statistics_step_sizes_and_thresholds_are_finite(name: str, value: float) -> None:
    network = layers()
    assert broken(network) == []
    network.state_dict()[name].view(-1)[0] = value
    assert broken(network) == [name]
    with pytest.raises(Diverged, match=f"first in {name}"):
        check_finite(network)


def test_a_mask_may_be_infinite_but_not_nan() -> None:
    network = layers()
    network.get_buffer("mask")[0] = math.nan
    assert broken(network) == ["mask"]


def test_a_step_size_that_is_not_set_is_nan() -> None:
    assert broken(Quantizer(3)) == broken(Quantizer(3, channels=4)) == []


def test_a_tensor_that_two_modules_share_is_named_twice() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(math.nan)
    assert broken(nn.Sequential(layer, layer)) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_numbers_of_one_byte(dtype: torch.dtype) -> None:
    weights = torch.tensor([[1.0]]).to(dtype)
    assert broken(nn.Linear(1, 1, bias=False), {"weight": weights}) == []
    assert broken(nn.Linear(1, 1, bias=False), {"weight": torch.tensor([[math.nan]]).to(dtype)}) == ["weight"]


def test_complex_numbers_whole_numbers_and_empty_tensors() -> None:
    network = nn.Module()
    network.register_parameter("complex", nn.Parameter(torch.tensor([1j, complex(0, math.inf)])))
    network.register_buffer("whole", torch.tensor([1, 2]))
    network.register_buffer("empty", torch.empty(0))
    assert broken(network) == ["complex"]
