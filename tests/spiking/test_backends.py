"""Back ends and precisions: chosen, named, refused in a sentence."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.kernels.cpu import compiler
from qffs.measurement.accuracy import measure
from qffs.method import FiringRule
from qffs.nn.inspect import empty_like
from qffs.nn.quantizer import Quantizer
from qffs.spiking import backends, layer_by_layer
from qffs.spiking.backends import BACKENDS, COMPILED, PYTORCH, REFERENCE
from qffs.spiking.network import SpikingNetwork
from test_verification import spiking

STEPS = 8


@pytest.fixture(scope="module")
def snn() -> SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(16, 3))
    x = torch.randn(64, 2, 8, 8)
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq"))


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(150, 2, 8, 8)


def test_all_give_the_same(snn: SpikingNetwork, x: Tensor) -> None:
    expected = snn(x, steps=STEPS, backend=REFERENCE)
    for backend in BACKENDS:
        if backend != COMPILED or compiler.available(torch.float32, x.device):
            found = snn(x, steps=STEPS, backend=backend)
            assert float((found.argmax(-1) != expected.argmax(-1)).float().mean()) <= 0.01
            torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-4)
    assert torch.equal(expected, snn(x, steps=STEPS, backend="reference"))


def test_exact_is_what_the_network_in_float64_does(snn: SpikingNetwork, x: Tensor) -> None:
    found = snn(x, steps=STEPS, precision="exact")
    assert found.dtype == torch.float64
    expected = copy.deepcopy(snn).double()
    torch.testing.assert_close(found, expected(x.double(), steps=STEPS), rtol=1e-9, atol=1e-9)
    assert snn.empty_like.dtype == torch.float32
    first = snn._exact
    snn(x, steps=STEPS, precision="exact")
    assert snn._exact is first
    changed = copy.deepcopy(snn)
    changed(x, steps=STEPS, precision="exact")
    for tensor in changed.state_dict().values():
        tensor.mul_(2)
    doubled = copy.deepcopy(changed).double()
    after = changed(x, steps=STEPS, precision="exact")
    torch.testing.assert_close(after, doubled(x.double(), steps=STEPS), rtol=1e-9, atol=1e-9)


class WithConstant(nn.Sequential):
    """Adds a number on the way, which the graph holds in float64, before its first weight."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x + 0.25)
        return out


def test_a_network_is_of_the_type_of_its_weights_and_not_of_its_constants(x: Tensor) -> None:
    torch.manual_seed(0)
    model = WithConstant(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3))
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq")
    snn = qffs.to_spiking(qann)
    assert torch.float64 in {tensor.dtype for tensor in snn.state_dict().values()}
    assert snn.empty_like.dtype == empty_like(qann).dtype == torch.float32
    exact = copy.deepcopy(snn).double()
    found = snn(x, steps=STEPS, precision="exact")
    torch.testing.assert_close(found, exact(x.double(), steps=STEPS), rtol=1e-9, atol=1e-9)
    images = Images((40 * x + 128).clamp(0, 255).to(torch.uint8), torch.zeros(len(x), dtype=torch.int64))
    for normalize in (lambda y: y / 40, lambda y: y.double() / 40):
        with torch.no_grad():
            last = float((snn(images.images.float() / 40, steps=STEPS)[-1].argmax(-1) == 0).float().mean())
        measured = measure(snn, images, normalize, STEPS, qann=qann, progress=False)
        assert measured.accuracy[-1] == pytest.approx(last, abs=0.01)


def test_images_go_through_some_at_a_time(snn: SpikingNetwork, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    accumulated = layer_by_layer.accumulated
    monkeypatch.setattr(
        layer_by_layer,
        "accumulated",
        lambda network, inputs, *more, **options: (
            ran.append(len(inputs[0])) or accumulated(network, inputs, *more, **options)
        ),
    )
    counts = torch.zeros(2, STEPS, dtype=torch.int64)
    whole = snn(x, steps=STEPS, counter=lambda _, spikes: counts.add_(spikes))
    assert ran == [64, 64, 22]
    assert whole.shape == (STEPS, 150, 3)
    assert torch.equal(whole[:, 70:80], snn(x[70:80], steps=STEPS))
    ran.clear()
    monkeypatch.setattr(backends, "NUMBERS", 10 * 2 * 8 * 8)
    again = torch.zeros_like(counts)
    assert torch.equal(snn(x, steps=STEPS, counter=lambda _, spikes: again.add_(spikes)), whole)
    assert ran == [10] * 15
    assert torch.equal(again, counts)


def test_what_cannot_be_done_is_refused(snn: SpikingNetwork, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="backend must be one of compiled, pytorch, reference, not 'gpu'"):
        snn(x, steps=STEPS, backend="gpu")
    with pytest.raises(InvalidArgument, match="precision must be one of own, exact, not 'fast'"):
        snn(x, steps=STEPS, precision="fast")
    with pytest.raises(
        InvalidArgument, match="the compiled back end runs at most 255 steps, and neurons that send one"
    ):
        snn(x, steps=256, backend=COMPILED)
    uncovered = "vit"
    assert not spiking(uncovered).operations.by_layer
    with pytest.raises(InvalidArgument, match="the compiled back end cannot run this: the network turns or cuts"):
        spiking(uncovered)(*NETWORKS[uncovered].inputs(), steps=STEPS, backend=COMPILED)
    monkeypatch.setattr(compiler, "available", lambda *_: False)
    assert backends.choose(None, snn.operations, STEPS, snn.empty_like) == PYTORCH
    with pytest.raises(InvalidArgument, match="the compiled back end needs a CPU with a C compiler"):
        snn(x, steps=STEPS, backend=COMPILED)


def test_the_fastest_is_chosen(snn: SpikingNetwork) -> None:
    fastest = COMPILED if compiler.available(torch.float32, torch.device("cpu")) else PYTORCH
    assert backends.choose(None, snn.operations, STEPS, snn.empty_like) == fastest
    assert backends.choose(None, snn.operations, STEPS, snn.empty_like.to(torch.bfloat16)) == PYTORCH
    assert backends.choose(None, snn.operations, 256, snn.empty_like) == PYTORCH


class Dense(nn.Module):
    """Each layer reads all before it, joined."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.layers = nn.ModuleList([nn.Conv2d(3 * (n + 1), 3, 3, padding=1) for n in range(layers)])
        self.last = nn.Linear(3 * (layers + 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for layer in self.layers:
            found.append(layer(torch.relu(torch.cat(found, 1))))
        return self.last(torch.cat([torch.relu(each) for each in found], 1).mean((2, 3)))


class Pooled(nn.Module):
    """Max pooling of what has no channels, where the batch stands in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.last = nn.Linear(6, 8), nn.MaxPool1d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(torch.relu(self.first(x))))


class Beside(nn.Module):
    """A differenced operator beside a tensor of the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.maximum(torch.relu(self.first(x)), torch.zeros(x.shape[0], 1)))


class Squeezed(nn.Module):
    """One neuron an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))).squeeze(1))


class Masked(nn.Module):
    """An output that is ruled out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.tensor([False, True, False])
        return self.last(torch.relu(self.first(x))).masked_fill(mask, float("-inf"))


def made(model: nn.Module, x: Tensor, charge: list[float] | None = None) -> SpikingNetwork:
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model.eval(), 2, example=x), [x], "lsq"), charge)


@pytest.mark.parametrize(
    ("kind", "shape", "charge"),
    [
        (lambda: Dense(12), (64, 2, 6, 6), None),
        (Pooled, (5, 6), None),
        (Beside, (20, 6), None),
        (Squeezed, (20, 6), None),
        (Masked, (7, 6), [0.0, 1.0]),
    ],
    ids=["dense", "pooled", "beside", "squeezed", "masked"],
)
def test_what_only_some_networks_do(kind: type[nn.Module], shape: tuple[int, ...], charge: list[float] | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).double()
    snn = made(kind().double(), x, charge)
    expected = snn(x, steps=16, backend="reference")
    for backend in (None, PYTORCH):
        found = snn(x, steps=16, backend=backend)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


RULES = {
    "reset": FiringRule(negative_spikes=False, cap=False, reset="zero"),
    "leaky": FiringRule(negative_spikes=False, cap=False, decay=0.75),
    "leaky reset": FiringRule(negative_spikes=False, cap=False, reset="zero", decay=0.5),
    "several": FiringRule(multi_spike=True),
    "several, no cap": FiringRule(cap=False, multi_spike=True),
    "rates": FiringRule(negative_spikes=False, cap=False),
}


@pytest.mark.parametrize("steps", [16, 260])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_any_rule_and_any_number_of_steps(rule: FiringRule, steps: int) -> None:
    """Of rates, whose counts go on with the input: at 260 steps they are no bytes any more."""
    torch.manual_seed(0)
    x = torch.randn(6, 2, 8, 8).double()
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU())
    model = model.append(nn.Flatten()).append(nn.Linear(16, 3)).double()
    qann = qffs.calibrate(qffs.quantize(model, 2, example=x), [x], "lsq")
    snn = qffs.to_spiking(qann, steps, rule)
    for _, neuron in snn.neurons():
        neuron.threshold /= steps  # so that some fire at every step
    expected, counts = snn(x, steps=steps, backend="reference"), dict[str | None, dict[str, Tensor]]()
    for backend in (REFERENCE, PYTORCH, None):
        counts[backend] = {}
        found = snn(x, steps=steps, backend=backend, counter=counts[backend].__setitem__)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert counts[backend].keys() == dict(snn.neurons()).keys()
        assert all(map(torch.equal, counts[backend].values(), counts[REFERENCE].values()))
    assert all(int(each.sum()) > 100 for each in counts[REFERENCE].values())


@pytest.mark.parametrize("backend", [PYTORCH, None])
def test_potentials_leak_while_nothing_arrives(backend: str | None) -> None:
    """A neuron of potential 0.75 that gets 0.5 two steps later fires if nothing leaks, and not if half does."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for layer, weight in zip(model[::2], ([[1.0, 0.0], [0.0, 1.0]], [[0.75, 0.5]], [[1.0]]), strict=True):
        layer.weight.data.copy_(torch.tensor(weight))
        nn.init.zeros_(layer.bias)
    x = torch.tensor([[1.0, 0.25]], dtype=torch.float64)  # the second neuron fires at step 4
    qann = qffs.quantize(model, levels=8, example=x)
    for module in qann.modules():
        if isinstance(module, Quantizer):
            module.set_step_size(1.0)
    for leak, fires in ((1.0, True), (0.5, False)):
        snn = qffs.to_spiking(qann, (1.0,), FiringRule(negative_spikes=False, precharge=0.0))
        (_, first), (_, second) = snn.neurons()
        first.rule, second.rule = (replace(first.rule, decay=each) for each in (2.0, leak))  # 1/4, 1/2, 1
        assert bool(snn(x, steps=6, backend=backend)[-1].any()) is fires
        torch.testing.assert_close(snn(x, steps=6, backend=backend), snn(x, steps=6, backend="reference"))


def test_images_too_small_to_pool_are_refused() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 2, 4, 4)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(InvalidArgument, match="a window of 4 does not fit 2"):
        made(model, x)(x[..., :2, :2], steps=STEPS)


def test_another_default_device_changes_nothing(snn: SpikingNetwork, x: Tensor) -> None:
    expected = snn(x, steps=STEPS, counter=lambda *_: None)
    with torch.device("meta"):
        assert torch.equal(snn(x, steps=STEPS, counter=lambda *_: None), expected)


@pytest.mark.parametrize("precision", ["own", "exact"])
def test_what_is_kept_of_weights_and_rules_is_made_anew_when_they_change(x: Tensor, precision: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 9), nn.ReLU(), nn.Linear(9, 3))
    snn = made(model, x)

    def check() -> None:
        found = snn(x, steps=STEPS, precision=precision)[-1]
        torch.testing.assert_close(found.float(), snn(x, steps=STEPS, backend="reference")[-1], rtol=1e-4, atol=1e-4)

    layer = snn.graph.get_submodule("3")
    check()
    for change in (
        lambda: layer.weight.data.mul_(-3),
        lambda: setattr(layer.weight, "data", layer.weight.data * 0.5),
        lambda: setattr(layer, "weight", nn.Parameter(layer.weight.detach() * 2, requires_grad=False)),
        lambda: [setattr(neuron, "negative_spikes", False) for _, neuron in snn.neurons()],
        lambda: [setattr(neuron, "highest", 1) for _, neuron in snn.neurons()],
    ):
        for _ in range(2):
            change()
            check()


def test_inference_mode(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 9), nn.ReLU(), nn.Linear(9, 3))
    snn = made(model, x)
    with torch.inference_mode():
        inside = [snn(x, steps=STEPS, precision=precision) for precision in ("own", "exact")]
        again = pickle.loads(pickle.dumps(snn))
        assert torch.equal(again(x, steps=STEPS), inside[0])
    for precision, expected in zip(("own", "exact"), inside, strict=True):
        assert torch.equal(snn(x, steps=STEPS, precision=precision), expected)
        assert torch.equal(again(x, steps=STEPS, precision=precision), expected)


def test_inputs_that_are_none_are_refused_in_any_precision(snn: SpikingNetwork) -> None:
    for precision in ("own", "exact"):
        with pytest.raises(InvalidArgument, match="the network takes 1 tensors"):
            snn("foo", steps=STEPS, precision=precision)  # type: ignore[arg-type]
