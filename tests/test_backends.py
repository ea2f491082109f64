"""Back ends and precisions: chosen, named, refused in a sentence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import qffs
from networks import NETWORKS
from qffs import backends
from qffs.backends import BACKENDS, COMPILED, PYTORCH, REFERENCE
from qffs.errors import InvalidArgument
from qffs.kernels import native
from qffs.network import SpikingNetwork
from test_networks import spiking

STEPS = 8


@pytest.fixture(scope="module")
def snn() -> SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(16, 3))
    x = torch.randn(64, 2, 8, 8)
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x]))


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(150, 2, 8, 8)


def test_all_give_the_same(snn: SpikingNetwork, x: Tensor) -> None:
    expected = snn.readout(x, steps=STEPS, backend=REFERENCE)
    for backend in BACKENDS:
        if backend != COMPILED or native.available(torch.float32, x.device):
            found = snn.readout(x, steps=STEPS, backend=backend)
            assert float((found.argmax(-1) != expected.argmax(-1)).float().mean()) <= 0.01
            torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-4)
    assert torch.equal(expected, snn(x, steps=STEPS))


def test_exact_is_what_the_network_in_float64_does(snn: SpikingNetwork, x: Tensor) -> None:
    found = snn.readout(x, steps=STEPS, precision="exact")
    assert found.dtype == torch.float64
    expected = copy.deepcopy(snn).double()
    torch.testing.assert_close(found, expected(x.double(), steps=STEPS), rtol=1e-9, atol=1e-9)
    assert snn.like.dtype == torch.float32
    first = snn._exact
    snn.readout(x, steps=STEPS, precision="exact")
    assert snn._exact is first
    changed = copy.deepcopy(snn)
    changed.readout(x, steps=STEPS, precision="exact")
    for tensor in changed.state_dict().values():
        tensor.mul_(2)
    doubled = copy.deepcopy(changed).double()
    after = changed.readout(x, steps=STEPS, precision="exact")
    torch.testing.assert_close(after, doubled(x.double(), steps=STEPS), rtol=1e-9, atol=1e-9)


def test_images_go_through_some_at_a_time(snn: SpikingNetwork, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    accumulated = backends.accumulated
    monkeypatch.setattr(
        backends,
        "accumulated",
        lambda network, state, *more, **options: (
            ran.append(len(state.inputs[0])) or accumulated(network, state, *more, **options)
        ),
    )
    counts = torch.zeros(2, STEPS, dtype=torch.int64)
    whole = snn.readout(x, steps=STEPS, counter=lambda _, spikes: counts.add_(spikes))
    assert ran == [64, 64, 22]
    assert whole.shape == (STEPS, 150, 3)
    assert torch.equal(whole[:, 70:80], snn.readout(x[70:80], steps=STEPS))
    ran.clear()
    monkeypatch.setattr(backends, "NUMBERS", 10 * 2 * 8 * 8)
    again = torch.zeros_like(counts)
    assert torch.equal(snn.readout(x, steps=STEPS, counter=lambda _, spikes: again.add_(spikes)), whole)
    assert ran == [10] * 15
    assert torch.equal(again, counts)


def test_what_cannot_be_done_is_refused(snn: SpikingNetwork, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="backend must be one of compiled, pytorch, reference, not 'gpu'"):
        snn.readout(x, steps=STEPS, backend="gpu")
    with pytest.raises(InvalidArgument, match="precision must be one of own, exact, not 'fast'"):
        snn.readout(x, steps=STEPS, precision="fast")
    with pytest.raises(InvalidArgument, match=r"the pytorch back end cannot run this: .* more than 255 steps"):
        snn.readout(x, steps=256, backend=PYTORCH)
    uncovered = next(name for name in NETWORKS if not backends.covers(spiking(name).graph, STEPS))
    with pytest.raises(InvalidArgument, match="the compiled back end cannot run this: the network turns or cuts"):
        spiking(uncovered).readout(*NETWORKS[uncovered].inputs(), steps=STEPS, backend=COMPILED)
    monkeypatch.setattr(native, "available", lambda *_: False)
    assert backends.chosen(None, snn.graph, STEPS, snn.like) == PYTORCH
    with pytest.raises(InvalidArgument, match="the compiled back end needs a CPU with a C compiler"):
        snn.readout(x, steps=STEPS, backend=COMPILED)


def test_the_fastest_is_chosen(snn: SpikingNetwork) -> None:
    fastest = COMPILED if native.available(torch.float32, torch.device("cpu")) else PYTORCH
    assert backends.chosen(None, snn.graph, STEPS, snn.like) == fastest
    assert backends.chosen(None, snn.graph, STEPS, snn.like.to(torch.bfloat16)) == PYTORCH
    assert backends.chosen(None, snn.graph, 256, snn.like) == REFERENCE
