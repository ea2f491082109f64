"""Every call in one form."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import NotConvertible, NothingToQuantize
from qffs.graph.trace.trace import trace


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_model_that_is_a_batch_norm_has_nothing_to_quantize(dimensions: int) -> None:
    norm = getattr(nn, f"BatchNorm{dimensions}d")(6)
    with pytest.raises(NothingToQuantize):
        qffs.quantize(norm, example=torch.randn(4, 6, *(3,) * dimensions))


def test_a_model_of_a_class_derived_from_a_batch_norm_is_to_be_wrapped() -> None:
    class Activated(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    x = torch.randn(16, 6)
    with pytest.raises(NotConvertible, match=r"it would not learn its statistics: .* a model that contains it"):
        qffs.quantize(Activated(6), example=x)
    qann = qffs.quantize(nn.Sequential(Activated(6)), example=x)
    qann.train()(x)
    assert qann.get_buffer("0.running_mean").abs().sum() > 0


class Shift(nn.Module):
    """A module with tensors that no state dict holds: an attribute, and a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(6.0)
        self.register_buffer("mask", torch.ones(6), persistent=False)
        self.register_buffer("unused", torch.ones(6), persistent=False)
        self.register_buffer("scale", torch.full((6,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.table * self.mask


class Constants(Shift):
    """A network that has such tensors itself, and makes another one when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shift, self.head = nn.Linear(6, 6), Shift(), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shift(super().forward(self.layer(x))).relu()
        return self.head(y.index_select(1, torch.tensor([0, 3])))


def test_constants_are_in_no_state_dict_and_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Constants().double(), torch.randn(8, 6, dtype=torch.float64)
    qann = calibrated(model, x, output="analog")
    expected = qann(x)
    loaded = qffs.load(qffs.save(qann, tmp_path / "qann")).network
    assert torch.equal(pickle.loads(pickle.dumps(qann))(x), expected)
    for network in (qann, copy.deepcopy(qann), copy.deepcopy(copy.deepcopy(qann)), loaded, copy.deepcopy(loaded)):
        assert network.state_dict().keys() == {*model.state_dict(), "relu.step_size"}
        assert torch.equal(network(x), expected)
    for network in (qann, loaded):
        snn = qffs.to_spiking(network)
        qffs.verify(network, snn, x)
        assert torch.equal(qffs.load(qffs.save(snn, tmp_path / "snn")).network(x), snn(x))
    again = qffs.quantize(model, example=x)
    again.load_state_dict(loaded.state_dict())
    assert torch.equal(again.eval()(x), expected)
    assert {buffer.device.type for buffer in qann.to("meta").buffers()} == {"meta"}


class Casts(nn.Module):
    """A network that computes in other types between its layers, with constants as NumPy makes them."""

    def __init__(self, between: Callable[[Any, Any], Any], before: Callable[[Any, Any], Any] | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between, self.before = between, before or (lambda self, x: x)
        self.register_buffer("mean", torch.full((6,), 0.25, dtype=torch.float64))
        self.register_buffer("scale", torch.linspace(0, 1, 8, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, torch.relu(self.first(self.before(self, x)))))


CASTS: dict[str, Casts] = {
    "up and down": Casts(lambda self, h: h.double().mul(0.5).float()),
    "softmax": Casts(lambda self, h: torch.softmax(h.double(), -1).to(torch.float32)),
    "softmax of its own": Casts(lambda self, h: torch.softmax(h, -1, dtype=torch.float64).float()),
    "a constant": Casts(lambda self, h: (h * self.scale).to(dtype=torch.float32)),
    "the input": Casts(lambda self, h: h, lambda self, x: (x - self.mean).float()),
    "down and up": Casts(lambda self, h: h.bfloat16().float()),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_value_of_a_higher_type_is_reduced_to_the_type_of_the_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = copy.deepcopy(CASTS[name]), torch.randn(8, 6)
    qann = calibrated(model, x, output="analog").eval()
    snn = qffs.to_spiking(qann)
    assert qann(x).dtype == torch.float32
    qffs.verify(qann, snn, x)
    exact = snn(x, precision="exact")
    assert torch.equal(qffs.load(qffs.save(qann, tmp_path / "qann")).network(x), qann(x))
    assert qann.state_dict().keys() == {*model.state_dict(), "relu.step_size"}
    qffs.verify(qann.double(), snn.double(), x.double())
    assert torch.equal(exact, snn(x.double()))


def test_a_network_casts_its_input_down() -> None:
    model, x = Casts(lambda self, h: h, lambda self, x: x.bfloat16()).bfloat16(), torch.randn(8, 6)
    qann = calibrated(model, x, output="analog").eval()
    qffs.verify(qann, qffs.to_spiking(qann), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_an_output_in_another_type_is_the_same_up_to_its_precision(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(Casts(lambda self, h: h), To(dtype)), torch.randn(8, 6)
    computed, expected = trace(model, x)(x), model(x)
    assert computed.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(computed.to(dtype), expected, rtol=0, atol=0)


class To(nn.Module):
    """A cast."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)
