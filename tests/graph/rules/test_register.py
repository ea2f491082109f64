"""Operators of users' own: registered, converted exactly, refused where the claim is wrong, kept in checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated
from qffs.errors import CheckpointError, InvalidArgument, NotConvertible
from qffs.graph import rules


class Wavelet(nn.Module):
    """The Haar transform along the width, in a way that no tracing follows."""

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.gain * (x.detach().numpy()[..., ::2] + x.detach().numpy()[..., 1::2]))


def median(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().copy()).median(-1, keepdim=True)[0]


class Uses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wavelet, self.head = nn.Conv2d(2, 4, 3, padding=1), Wavelet(), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        return torch.relu(self.head(self.wavelet(y) - median(y)))


def exact(model: nn.Module, x: Tensor) -> tuple[nn.Module, nn.Module]:
    qann = calibrated(model, x)
    snn = qffs.to_spiking(qann)
    assert qffs.verify(qann, snn, x, tie_tolerance=0).deviation < 1e-12
    # Products of other sizes are summed in another order, so the values may differ in the last digit.
    torch.testing.assert_close(snn.run(x, steps=9, chunk=1)[0], snn(x, steps=9), rtol=1e-12, atol=1e-12)
    return qann, snn


def test_a_module_and_a_function_of_ones_own(tmp_path: Path) -> None:
    x = torch.randn(3, 2, 6, 8, dtype=torch.float64)
    qffs.register(Wavelet, "linear", "the Haar transform")
    qffs.register(median, "differenced")
    rows = {row.operator: row for row in qffs.plan(Uses().double(), x).rows}
    assert (rows["Wavelet"].kind, rows["Wavelet"].why) == ("linear", "the Haar transform")
    assert rows["median"].kind == "differenced"
    assert rows["median"].values
    qann, snn = exact(Uses().double(), x)
    for name, network in (("qann", qann), ("snn", snn)):
        qffs.save(network, tmp_path / name)
    assert torch.equal(qffs.load(tmp_path / "qann").network(x), qann(x))
    assert torch.equal(qffs.load(tmp_path / "snn").network(x, steps=9), snn(x, steps=9))
    del rules.MODULES[Wavelet]
    with pytest.raises(CheckpointError, match=r"has no rule here, .*test_register:Wavelet"):
        qffs.load(tmp_path / "snn")


def test_without_it_the_network_is_refused() -> None:
    with pytest.raises(qffs.QffsError):
        qffs.plan(Uses().double(), torch.randn(3, 2, 6, 8, dtype=torch.float64)).check()


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Magnitude(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Rectified(nn.Module):
    """Twice as much of twice as much, and yet not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0)


@pytest.mark.parametrize("kind", [Shifted, Magnitude, Rectified])
def test_a_wrong_claim_is_refused(kind: type[nn.Module]) -> None:
    qffs.register(kind, "linear")
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), kind()).double(), torch.randn(3, 4).double()
    with pytest.raises(NotConvertible, match=f"{kind.__name__} at 3: it was registered as linear, but does not map"):
        qffs.quantize(model, example=x)
    qffs.register(kind, "differenced")
    exact(model, x)


def test_what_cannot_be_registered() -> None:
    with pytest.raises(InvalidArgument, match='"linear" or "differenced", not \'spiking\''):
        qffs.register(Wavelet, "spiking")
    for target in ("relu", Wavelet(), 5, int, torch.Tensor.topk, lambda x: x):
        with pytest.raises(InvalidArgument, match="a class of torch"):
            qffs.register(target, "linear")  # type: ignore[arg-type]


def test_the_librarys_own_table_stays() -> None:
    for target in (nn.Conv2d, nn.LSTM, torch.exp, torch.sort):
        with pytest.raises(InvalidArgument, match="in the library's own table, which cannot be changed"):
            qffs.register(target, "differenced")
    qffs.register(median, "linear")
    qffs.register(median, "differenced")  # what a user has said, a user may take back


def test_complex_numbers_are_no_rounding() -> None:
    qffs.register(torch.fft.fft, "linear")
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Spectrum())
    x = torch.randn(3, 4, dtype=torch.float64)
    rows = {row.operator: row.kind for row in qffs.plan(model.double(), x).rows}
    assert rows["fft_fft"] == "linear"
    exact(model, x)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).abs()
