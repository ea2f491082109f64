"""Simulation by what has accumulated against the reference, on every network of the tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from qffs.errors import Diverged, InvalidArgument
from qffs.functional.sparse_steps import SparseSteps
from qffs.graph.nested import tensors
from qffs.kernels.cpu import compiler
from qffs.spiking import layer_by_layer
from qffs.spiking.backends import COMPILED, PYTORCH, compiles
from qffs.spiking.layer_by_layer import accumulated
from test_verification import every_network, spiking

STEPS = 8


@every_network
def test_spikes_and_readouts_are_those_of_the_reference(name: str) -> None:
    found: dict[str, Tensor] = {}
    snn, inputs = spiking(name), NETWORKS[name].inputs()
    expected, _ = snn.run(*inputs, steps=STEPS, observer=lambda path, spikes, _: found.update({path: spikes}))
    for backend in (None, PYTORCH) if snn.operations.by_layer else (None,):
        counts: dict[str, Tensor] = {}
        readout = snn(*inputs, steps=STEPS, backend=backend, counter=counts.__setitem__)
        torch.testing.assert_close(tensors(readout), tensors(expected), rtol=1e-9, atol=1e-9)
        assert counts.keys() == found.keys()
        for path, spikes in found.items():
            by_sign = torch.stack([(spikes == sign).flatten(1).sum(1) for sign in (1, -1)])
            assert torch.equal(counts[path], by_sign), path


@every_network
def test_levels_are_those_of_the_reference(name: str) -> None:
    snn, inputs = spiking(name), NETWORKS[name].inputs()
    if not snn.operations.by_layer:
        pytest.skip("the reference runs")
    found: dict[str, Tensor] = {}
    seen: dict[str, SparseSteps] = {}
    snn.run(*inputs, steps=STEPS, observer=lambda path, spikes, _: found.update({path: spikes}))
    accumulated(snn.operations, inputs, snn.schedule.over(STEPS), seen.__setitem__)
    for path, spikes in found.items():
        assert torch.equal(seen[path].values[seen[path].index].double(), spikes.cumsum(0).double()), path


class Quotient(nn.Module):
    """Infinite, or nothing over nothing, until some of its divisor has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.above, self.below = nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(x).relu() / self.below(x).relu().sum(1, keepdim=True)


class Masked(nn.Module):
    """Spikes chosen by a mask of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, self.first(x).relu(), self.second(x).relu())


class Broadcast(nn.Module):
    """A sum before neurons whose operands are not of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x).relu() + self.second(x).relu())


class ReadTwice(nn.Module):
    """What a layer makes of the input is read after a bias has been added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.tensor([2.0, -1.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        made = self.first(x)
        return (made + self.shift).relu() + self.second(made.relu()).relu()


class Moved(nn.Module):
    """Spikes that are moved, and zeros between them, on their way through synapses; of others a mirror image."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first, self.second, self.mode = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 3, 3), mode

    def forward(self, x: Tensor) -> Tensor:
        moved = torch.nn.functional.pad(self.first(x.unsqueeze(1)).relu()[:, :, 1:], (1, 2), self.mode)
        return self.second(moved).relu().flatten(1)


@pytest.mark.parametrize(("mode", "events"), [("constant", True), ("reflect", False)])
def test_levels_that_are_moved_are_levels(mode: str, events: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiler.available(torch.float64, torch.device("cpu")):
        pytest.skip("nothing can be compiled here")
    torch.manual_seed(0)
    seen: list[SparseSteps] = []
    find = layer_by_layer.Projection.of
    monkeypatch.setattr(layer_by_layer.Projection, "of", lambda rows, module: seen.append(rows) or find(rows, module))
    model, x = Moved(mode).double(), torch.randn(20, 4).double()
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))
    torch.testing.assert_close(snn(x, steps=STEPS, backend=COMPILED), snn(x, steps=STEPS, backend="reference"))
    assert bool(seen) is events
    assert all(rows.values.dtype == torch.uint8 for rows in seen)


@pytest.mark.parametrize("kind", [Quotient, Masked, Broadcast, ReadTwice])
def test_what_no_network_of_the_tests_holds(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(20, 4).double()
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))
    assert snn.operations.by_layer
    expected = snn(x, steps=STEPS, backend="reference")
    assert bool((expected != 0).any())
    torch.testing.assert_close(snn(x, steps=STEPS), expected)
    narrow = qffs.to_spiking(qffs.calibrate(qffs.quantize(model.float(), 2, example=x.float()), [x.float()], "lsq"))
    torch.testing.assert_close(
        narrow(x.float(), steps=STEPS)[-1], narrow(x.float(), steps=STEPS, backend="reference")[-1]
    )


def test_what_a_hook_keeps_stays_as_it_was() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double(), torch.randn(3, 4).double()
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))
    seen: list[Tensor] = []
    first = snn.graph.get_submodule("0")
    first.register_forward_hook(lambda *given: seen.append(given[-1]))
    snn(x, steps=STEPS)
    assert torch.equal(seen[0], x @ first.get_parameter("weight").T)


@pytest.mark.slow
def test_networks_that_turn_or_cut_images_are_left_to_the_reference_and_long_runs_to_pytorch() -> None:
    left = {name for name in NETWORKS if not spiking(name).operations.by_layer}
    assert left == {"vit", "windows", "shifted_windows", "frames", "time_first"}
    assert compiles(spiking("resnet18").graph, 255)
    assert not compiles(spiking("resnet18").graph, 256)


def test_an_image_that_has_settled_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4).double()
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))
    expected, counted = snn(x, steps=200, backend="reference"), torch.nn.functional.linear

    def linear(x: Tensor, *more: Tensor) -> Tensor:
        ran.append(len(x))
        return counted(x, *more)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert torch.allclose(snn(x, steps=200), expected)
    assert max(ran) < 40  # of 600
    ran.clear()
    assert torch.allclose(snn(x, steps=200, backend=PYTORCH), expected)
    assert 3 < max(ran) < 40


def test_bad_inputs_are_refused_alike() -> None:
    snn = spiking("resnet18")
    (x,) = NETWORKS["resnet18"].inputs()
    with pytest.raises(
        InvalidArgument, match=r"does not run on inputs of .*; it was made for images of \(3, \d+, \d+\) torch"
    ):
        snn(x[:, :1], steps=STEPS)
    with pytest.raises(InvalidArgument, match="at least as many steps"):
        snn(x, steps=1)
    with pytest.raises(Diverged, match="NaN or infinity"):
        snn(x * float("nan"), steps=STEPS)
