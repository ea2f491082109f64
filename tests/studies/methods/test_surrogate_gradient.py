"""Direct training: what trains is what is run, surrogate gradients by hand, what each method makes of a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.untrained import images, network
from qffs.errors import InvalidArgument, NotConvertible
from qffs.graph.classify import classify, write_sites
from qffs.graph.replace import activations
from qffs.graph.trace.trace import trace
from qffs.spiking.backends import BACKENDS
from qffs.studies.methods import METHODS, over_time, placed, started
from qffs.studies.methods.dspike import Dspike, adapted

Neurons = pytest.importorskip("qffs.studies.methods.spikingjelly_neurons", exc_type=ImportError).Neurons

DIRECT = ("diet", "dspike", "sew")


class Residual(nn.Module):
    """Two blocks, the second of which changes the number of channels, with batch norms that have seen images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two = self._layer(1, 4), self._layer(4, 4), self._layer(4, 4)
        self.three, self.four, self.short = self._layer(4, 8), self._layer(8, 8), self._layer(4, 8)
        self.last = nn.Linear(8, 10)
        self.double()(images(64))
        self.eval()

    def _layer(self, before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        x = torch.relu(self.four(torch.relu(self.three(x))) + self.short(x))
        return self.last(x.mean((2, 3)))


def made(name: str, model: nn.Module) -> tuple[Any, nn.Module]:
    activation = METHODS[name].activation
    graph = started(placed(model, images(2), activation), activation, images())
    return graph, over_time(graph, activation)


def annotated(model: nn.Module) -> Any:
    traced = trace(model, images(2))
    write_sites(classify(traced))
    return traced


@pytest.mark.parametrize("model", [network, Residual])
@pytest.mark.parametrize("name", DIRECT)
def test_what_trains_is_what_is_run(name: str, model: Any) -> None:
    """The mean over the steps of training, spike by spike, before and after training, by every back end."""
    graph, trains = made(name, model())
    optimizer, x = torch.optim.Adam(trains.parameters(), 1e-2), images()
    before, leaks = trains(x).detach(), []
    for _ in range(3):
        trains.train()
        loss = nn.functional.cross_entropy(trains(x), torch.arange(len(x)) % 10)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in trains.parameters() if p.requires_grad)
        optimizer.step()
        trains.eval()
        with torch.no_grad():
            wanted = trains(x)
        snn, steps = METHODS[name].spiking(graph, [x], METHODS[name].activation.steps), METHODS[name].activation.steps
        leaks = [neuron.rule.decay for _, neuron in snn.neurons()]
        for backend in (*BACKENDS[1:], None):
            torch.testing.assert_close(snn(x, steps=steps, backend=backend)[-1], wanted)
    assert not torch.allclose(before, wanted, atol=0.01)
    expected = {"sew": {1.0}, "dspike": {0.5}}
    assert set(leaks) == expected[name] if name in expected else len(set(leaks)) > 1  # DIET trains them


def test_neurons_by_hand() -> None:
    """θ = 2, λ = 1/2: potentials of 0.5, 1.25 - 1 = 0.25 and 1.125 - 1 thresholds, or 0 where they are reset."""
    currents = torch.tensor([1.0, 2.0, 2.0])[:, None]
    for reset, wanted in (("subtract", [0.0, 2.0, 2.0]), ("zero", [0.0, 2.0, 2.0])):
        neurons = Neurons(3, Dspike(), reset=reset, decay=0.5)
        neurons.threshold.data.fill_(2.0)
        assert neurons(currents).flatten().tolist() == wanted
    more = torch.tensor([3.0, 1.5, 1.5])[:, None]  # 1.5 - 1, 0.25 + 0.75 = 1; reset: 0.75, 0.375 + 0.75
    found = []
    for reset in ("subtract", "zero"):
        neurons = Neurons(3, Dspike(), reset=reset, decay=0.5)
        neurons.threshold.data.fill_(2.0)
        found.append(neurons(more).flatten().tolist())
    assert found == [[2.0, 2.0, 0.0], [2.0, 0.0, 2.0]]


def test_surrogates_by_hand() -> None:
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)

    def slope(surrogate: Any) -> Tensor:
        u = x.clone().requires_grad_()
        spikes = surrogate(u)
        assert torch.equal(spikes.detach(), (x >= 0).to(x))
        spikes.sum().backward()
        assert u.grad is not None
        return u.grad

    diet, sew = (METHODS[name].activation.make(None).surrogate_function for name in ("diet", "sew"))
    torch.testing.assert_close(slope(diet), 0.3 * (1 - x.abs()).clamp_min(0))
    torch.testing.assert_close(slope(sew), 4 * torch.sigmoid(4 * x) * (1 - torch.sigmoid(4 * x)))
    for b in (1.0, 3.0, 6.0):
        dspike = Dspike()
        dspike.b.fill_(b)
        inside = x[(x.abs() <= 0.5)] + 0.5
        rises = (torch.tanh(b * (inside - 0.5)) / (2 * torch.tanh(torch.tensor(b / 2)))).diff() / inside.diff()
        found = slope(dspike)
        assert not found[x.abs() > 0.5001].any()
        torch.testing.assert_close(found[(x.abs() <= 0.5)][:-1], rises, rtol=0.01, atol=0.01)


def test_dspike_takes_the_steepness_that_agrees_with_finite_differences() -> None:
    """Where the loss depends on the weights as the surrogate of one b says, that is taken."""

    class Smooth(nn.Module):
        """Logits whose differences are those of b = 4, and whose gradient is that of whatever b is set."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight, self.surrogate_function = nn.Parameter(torch.randn(2, 3) * 0.1), Dspike()

        def forward(self, x: Tensor) -> Tensor:
            b = 4.0 if not torch.is_grad_enabled() else float(self.surrogate_function.b)
            u = (x @ self.weight.T).clamp(-0.5, 0.5)
            return torch.tanh(b * u) / (2 * torch.tanh(torch.tensor(b / 2)))

    smooth, x = Smooth(), torch.randn(200, 3)
    kept = smooth.weight.detach().clone()
    taken = []
    for _ in range(3):
        adapted(smooth, [smooth], x, torch.arange(200) % 2)
        taken.append(int(smooth.surrogate_function.b))
    assert taken == [4, 4, 4]
    assert not smooth.surrogate_function.b.is_floating_point()  # a moving average of weights would take it in
    torch.testing.assert_close(smooth.weight.detach(), kept)


def test_diet_begins_with_thresholds_of_nearly_all_currents() -> None:
    model, x = network(), images()
    graph, _ = made("diet", model)
    module = graph.get_submodule(activations(graph)[0])
    current = model[0](x).detach().flatten().sort().values
    assert module.height == pytest.approx(0.7 * float(current[round(0.997 * len(current)) - 1]))
    x, model = images(), Residual()
    residual = METHODS["diet"].activation.prepare(annotated(model))
    assert not any(isinstance(each, nn.BatchNorm2d) for each in residual.modules())
    assert all(parameter.requires_grad for parameter in residual.parameters())
    torch.testing.assert_close(residual(x), model(x))


def test_sew_adds_spikes_up_behind_neurons() -> None:
    """Stem, two layers and a block's second layer and shortcut: no neurons where spikes were already."""
    plain, _ = made("dspike", Residual())
    graph, _ = made("sew", Residual())
    assert [len(activations(each)) for each in (plain, graph)] == [5, 6]
    for node in graph.graph.nodes:
        if str(node.target) in activations(graph):
            assert "add" not in str(node.args[0])


class Sums(nn.Module):
    """What is no block: a difference, and the sum of a value with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3).double(), nn.Conv2d(1, 4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return (torch.relu(one - two) + torch.relu(one + one) + torch.relu(torch.add(one, two, alpha=2))).sum((2, 3))


def test_sew_leaves_other_sums_alone() -> None:
    model, x = Sums(), images()
    torch.testing.assert_close(METHODS["sew"].activation.prepare(annotated(model))(x), model(x))


def test_what_pools_the_largest_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)).double()
    with pytest.raises(NotConvertible, match=r"average pooling: this one has .* \(MaxPool2d\)$"):
        placed(model, images(2), METHODS["sew"].activation)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    METHODS["sew"].activation.installed()
    monkeypatch.setattr("qffs.studies.methods.method.find_spec", lambda _: None)
    METHODS["qffs"].activation.installed()
    with pytest.raises(InvalidArgument, match=r"this needs spikingjelly, .*: pip install 'qffs\[spikingjelly\]'"):
        METHODS["sew"].activation.installed()
