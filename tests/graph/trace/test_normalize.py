"""Every call in one form."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import NotConvertible, NothingToQuantize


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
