"""Networks of other libraries come in as any model does."""

from __future__ import annotations

from typing import Any

import pytest
import snntorch
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import qffs
from qffs.data import load as load_data
from qffs.errors import NotConvertible


def relu_network() -> nn.Module:
    """SpikingJelly's layers around plain ReLUs, as its networks are before they are converted."""
    return nn.Sequential(
        layer.Conv2d(1, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        nn.ReLU(),
        layer.MaxPool2d(2),
        layer.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Dropout(0.2),
        layer.Linear(32, 10),
    )


@pytest.mark.slow
def test_a_relu_network_of_spikingjelly_is_trained_and_converted() -> None:
    torch.manual_seed(0)
    digits = load_data("digits")
    x, y = digits.normalize(digits.train.images), digits.train.labels
    model: Any = relu_network()
    for network, rate in ((model, 0.01), (None, 0.001)):
        if network is None:
            network = qann = qffs.calibrate(qffs.quantize(model.eval(), 2, example=x[:2]), [x[:256]], "lsq")
            assert set(model.state_dict()) <= set(qann.state_dict())
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), rate)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    qann.double().eval()
    snn = qffs.to_spiking(qann)
    given = digits.normalize(digits.test.images).double()
    qffs.verify(qann, snn, given[:64], tie_tolerance=0)
    accuracy = float((snn(given, steps=8)[-1].argmax(1) == digits.test.labels).double().mean())
    assert accuracy > 0.9


def test_several_steps_in_one_call_are_images_too() -> None:
    """A network in SpikingJelly's step mode "m" takes [T, B, ...]: T images of B rows each."""
    torch.manual_seed(0)
    model: Any = relu_network().eval()
    for module in model:
        if hasattr(module, "step_mode"):
            module.step_mode = "m"
    x = torch.randn(3, 2, 1, 8, 8, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model.double(), 2, example=x), [x], "lsq").eval()
    assert qffs.verify(qann, qffs.to_spiking(qann), x, tie_tolerance=0).layers


@pytest.mark.parametrize(
    ("spiking", "name"),
    [(neuron.IFNode(), "IFNode of spikingjelly"), (snntorch.Leaky(beta=0.9, init_hidden=True), "Leaky of snntorch")],
)
def test_a_network_that_spikes_already_is_refused_by_name(spiking: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), spiking, nn.Linear(8, 3))
    with pytest.raises(NotConvertible, match=rf"this network spikes already: 1 is a {name}, with a state from step"):
        qffs.quantize(model, 2, example=torch.randn(5, 4))
