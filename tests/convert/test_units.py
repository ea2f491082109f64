"""The units in which a network computes change nothing: the same levels and spikes in amperes and in nanoamperes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from qffs.errors import Diverged
from qffs.functional import lsq
from qffs.nn.quantizer import Quantizer
from qffs.verification import levels_of

UNITS = [2.0**exponent for exponent in (-80, -40, -20, 0, 20, 40)]
"""Powers of two, by which floating-point numbers are scaled without rounding; 2^40 is about 1e12."""


def network(unit: float, dtype: torch.dtype, per_channel: bool = False) -> tuple[fx.GraphModule, Tensor]:
    """A calibrated network whose input, biases and activations are all in one unit."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 5)).to(dtype).eval()
    x = torch.randn(8, 3, 8, 8, dtype=dtype)
    with torch.no_grad():
        for layer in model[::3]:
            layer.bias.mul_(unit)
    return qffs.calibrate(qffs.quantize(model, bits=3, example=unit * x, per_channel=per_channel), [unit * x]), unit * x


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_levels_outputs_and_gradients_scale(dtype: torch.dtype, per_channel: bool) -> None:
    ones = network(1.0, dtype, per_channel)
    expected, levels = levels_of(ones[0].eval(), ones[1])
    for unit in UNITS:
        qann, x = network(unit, dtype, per_channel)
        output, found = levels_of(qann.eval(), x)
        assert torch.equal(output, unit * expected)
        assert all(torch.equal(found[path], levels[path]) for path in levels)
        (qann(x) / unit).square().sum().backward()
        gradient = qann.get_submodule("0").weight.grad
        assert gradient is not None
        assert bool(gradient.abs().sum() > 0)


@pytest.mark.parametrize(
    "options", [{}, {"backend": "pytorch"}, {"backend": "reference"}, {"precision": "exact"}], ids=str
)
def test_spikes_scale(options: dict[str, str]) -> None:
    def run(unit: float) -> tuple[Tensor, dict[str, Tensor]]:
        qann, x = network(unit, torch.float32)
        counts: dict[str, Tensor] = {}
        return qffs.to_spiking(qann.eval())(x, steps=16, counter=counts.__setitem__, **options), counts

    expected, spikes = run(1.0)
    for unit in UNITS:
        readout, counts = run(unit)
        assert torch.equal(readout, unit * expected)
        assert all(torch.equal(counts[path], spikes[path]) for path in spikes)


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_units_that_round_are_exact_too(unit: float) -> None:
    qann, x = network(unit, torch.float64)
    levels_of_ones = levels_of(network(1.0, torch.float64)[0].eval(), network(1.0, torch.float64)[1])[1]
    found = levels_of(qann.eval(), x)[1]
    assert all(torch.equal(found[path], levels_of_ones[path]) for path in found)
    qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0)


def test_numbers_too_small_for_the_type_are_refused() -> None:
    with pytest.raises(
        Diverged, match=r"too small for torch\.float32, which takes 5e-29 and more: scale the network's"
    ):
        network(1e-32, torch.float32)
    with pytest.raises(Diverged, match=r"for torch\.float32, which takes 5e-29 and more: scale the network's input up"):
        network(1e-32, torch.float32)
    quantizer = Quantizer(3, channels=2)
    with pytest.raises(Diverged, match="a step size of 1e-30 is too small"):
        quantizer.set_step_size(torch.tensor([1.0, 1e-30]))
    quantizer.set_step_size(lsq.smallest_step_size(torch.float32))
