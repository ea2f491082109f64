"""Networks of other simulators' modules, run by those simulators, spike for spike beside ours."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, monitor
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from helpers.problems import IMAGE, Residual, randomize
from qffs import export, models
from qffs.data import load as load_data
from qffs.errors import InvalidArgument, NotConvertible
from qffs.export.modules.spikingjelly_neurons import SignedIFNode
from qffs.export.modules.stepping import Fire
from qffs.graph.nested import tensors
from qffs.spiking.network import SpikingNetwork
from spiking.test_backends import WithConstant
from test_verification import run, some_quickly
from test_verification import spiking as converted

STEPS = 9


def spiking(model: nn.Module, x: Tensor, **options: Any) -> SpikingNetwork:
    return qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x[:2], **options), [x], "lsq"))


def random(count: int, *shape: int) -> Tensor:
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def residual(**options: Any) -> tuple[SpikingNetwork, Tensor]:
    x = random(6, *IMAGE)
    return spiking(randomize(Residual(), 3).double(), x, **options), x


def resnet20() -> tuple[SpikingNetwork, Tensor]:
    x = random(3, 3, 32, 32)
    return spiking(randomize(models.MODELS["cifar_resnet20"](width=8), 0).double(), x), x


def vgg16() -> tuple[SpikingNetwork, Tensor]:
    x = random(3, 3, 32, 32)
    return spiking(randomize(models.MODELS["cifar_vgg16"](width=8), 0).double(), x), x


MADE: dict[str, Callable[[], tuple[SpikingNetwork, Tensor]]] = {
    "residual": residual,
    "residual, by channel": lambda: residual(per_channel=True),
    "residual, spiking output": lambda: residual(output=2),
    "ResNet-20": resnet20,
    "VGG-16 with max pooling": vgg16,
}


def reference(snn: SpikingNetwork, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The read-out by step and the spikes by layer, ``[T, B, ...]`` both."""
    spikes: dict[str, Tensor] = {}
    readout, _ = snn.run(x, steps=STEPS, observer=lambda path, sent, _: spikes.update({path: sent}))
    return readout, spikes


def watched(network: nn.Module, snn: SpikingNetwork) -> dict[str, list[Tensor]]:
    """What the layers of neurons of a network send from now on."""
    sent: dict[str, list[Tensor]] = {path: [] for path, _ in snn.neurons()}
    for path, layer in sent.items():
        layers = layer
        network.get_submodule(f"network.{path}").register_forward_hook(lambda *a, layers=layers: layers.append(a[-1]))
    return sent


def equal_spikes(sent: dict[str, list[Tensor]], snn: SpikingNetwork, expected: dict[str, Tensor]) -> None:
    for path, neuron in snn.neurons():
        assert torch.equal(torch.stack(sent[path]), expected[path] * neuron.threshold), path


@pytest.mark.parametrize("name", MADE)
def test_spikes_are_taken_back_in_these_networks(name: str) -> None:
    _, spikes = reference(*MADE[name]())
    assert any(bool((each < 0).any()) for each in spikes.values())


@pytest.mark.parametrize("name", MADE)
def test_spikingjelly_sends_the_same_spikes(name: str) -> None:
    snn, x = MADE[name]()
    readout, expected = reference(snn, x)
    network = export.spikingjelly(snn)
    for _ in range(2):  # the second time from the beginning
        sent = watched(network, snn)
        functional.reset_net(network)
        by_step = torch.stack([network(x) for _ in range(STEPS)])
        equal_spikes(sent, snn, expected)
        torch.testing.assert_close(by_step.cumsum(0), readout, rtol=1e-12, atol=1e-12)
    functional.reset_net(network)
    functional.set_step_mode(network, "m")
    assert torch.equal(network(x.expand(STEPS, *x.shape)), by_step)


@pytest.mark.parametrize("name", MADE)
def test_snntorch_sends_the_same_spikes(name: str) -> None:
    snn, x = MADE[name]()
    readout, expected = reference(snn, x)
    network = export.snntorch(snn)
    for _ in range(2):
        sent = watched(network, snn)
        network.reset()
        by_step = torch.stack([network(x) for _ in range(STEPS)])
        equal_spikes(sent, snn, expected)
        torch.testing.assert_close(by_step.cumsum(0), readout, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [export.spikingjelly, export.snntorch])
def test_predictions_on_the_digits_are_the_same(make: Callable[[SpikingNetwork], Any], tmp_path: Path) -> None:
    digits = load_data("digits")
    x = digits.normalize(digits.test.images)
    torch.manual_seed(0)
    snn = spiking(models.DigitsNet().eval(), x)
    network = make(snn)
    found = sum(network(x) for _ in range(8))
    assert torch.equal(found.argmax(-1), snn(x, steps=8, backend="reference")[-1].argmax(-1))
    torch.save(network, tmp_path / "network.pt")
    again = torch.load(tmp_path / "network.pt", weights_only=False)
    for module in again.modules():
        if hasattr(module, "reset"):
            module.reset()
    assert torch.equal(sum(again(x) for _ in range(8)), found)


def test_neurons_are_those_of_the_simulator() -> None:
    import snntorch
    from spikingjelly.activation_based.base import MemoryModule

    snn, x = residual()
    jelly, torch_ = export.spikingjelly(snn), export.snntorch(snn)
    watching = monitor.AttributeMonitor("v", False, jelly, instance=SignedIFNode)
    jelly(x)
    torch_(x)
    _, state = snn.run(x, steps=3, chunk=1)
    for path, neuron in snn.neurons():
        part = jelly.get_submodule(f"network.{path}")
        assert isinstance(part, MemoryModule)
        assert isinstance(part.part, Fire)
        layer = torch_.get_submodule(f"network.{path}")
        assert isinstance(layer, snntorch.SpikingNeuron)
        assert torch.equal(layer.threshold, neuron.threshold)
        assert torch.equal(layer.mem, part.v)
        assert torch.equal(layer.sent, part.sent)
        assert f"network.{path}" in watching.monitored_layers
    for _ in range(2):
        jelly(x)
    for path, _ in snn.neurons():
        torch.testing.assert_close(jelly.get_submodule(f"network.{path}").v, state.neurons[path].potential)


def test_the_network_stays_as_it_was() -> None:
    snn, x = residual()
    before = snn(x, steps=STEPS, backend="reference")
    export.spikingjelly(snn)(x)
    export.snntorch(snn)(x)
    assert torch.equal(snn(x, steps=STEPS, backend="reference"), before)


@pytest.mark.parametrize("make", [export.spikingjelly, export.snntorch])
@some_quickly
def test_ordinary_networks_send_the_same_spikes(name: str, make: Callable[[SpikingNetwork], nn.Module]) -> None:
    snn, inputs = converted(name), NETWORKS[name].inputs()
    network = make(snn)
    sent = watched(network, snn)
    readout, expected = run(name, STEPS, None)
    steps = [tensors(network(*inputs)) for _ in range(STEPS)]
    equal_spikes(sent, snn, expected)
    for number, each in enumerate(tensors(readout)):
        total = torch.stack([step[number] for step in steps]).cumsum(0)
        torch.testing.assert_close(total, each, rtol=1e-9, atol=1e-9)


def test_without_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, _ = residual()
    for name in ("spikingjelly", "snntorch"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InvalidArgument, match=rf"{name} needs {name}, .*pip install 'qffs\[{name}\]'"):
            getattr(export, name)(snn)


@pytest.mark.parametrize("make", [export.spikingjelly, export.snntorch])
@some_quickly
def test_ordinary_networks_are_saved_and_copied(name: str, make: Callable[[SpikingNetwork], nn.Module]) -> None:
    network, inputs, stream = make(converted(name)), NETWORKS[name].inputs(), io.BytesIO()
    torch.save(network, stream)
    stream.seek(0)
    again, copied = torch.load(stream, weights_only=False), copy.deepcopy(network)
    for _ in range(4):
        found = [tensors(each(*inputs)) for each in (network, again, copied)]
        assert all(torch.equal(one, two) and torch.equal(one, three) for one, two, three in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        (qffs.FiringRule(negative_spikes=False), 3),
        (qffs.FiringRule(cap=False), 3),
        (qffs.FiringRule(precharge=0.0), 3),
        (None, 7),
        (None, (0.75, -0.25, 0.0, 0.5)),
    ],
)
def test_rules_and_schedules_are_those_of_the_network(rule: Any, schedule: Any) -> None:
    x = random(6, *IMAGE)
    qann = qffs.calibrate(qffs.quantize(randomize(Residual(), 3).double(), 2, example=x[:2]), [x], "lsq")
    snn = qffs.to_spiking(qann, schedule, rule)
    readout, expected = reference(snn, x)
    for make in (export.spikingjelly, export.snntorch):
        network = make(snn)
        sent = watched(network, snn)
        found = torch.stack([network(x) for _ in range(STEPS)]).cumsum(0)
        equal_spikes(sent, snn, expected)
        torch.testing.assert_close(found, readout, rtol=1e-12, atol=1e-12)


def test_masks_come_whole_and_infinities_as_they_are() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 4)
            self.register_buffer("seen", torch.tensor([0.0, -torch.inf, 0.0, 0.0], dtype=torch.float64))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            h = torch.relu(self.other(torch.relu(self.one(x)) * mask))
            return (h + self.seen).softmax(-1)

    torch.manual_seed(0)
    given = random(5, 3), torch.rand(5, 4) > 0.3
    qann = qffs.calibrate(qffs.quantize(Masked().double(), 2, example=given), [given], "lsq")
    snn = qffs.to_spiking(qann)
    for make in (export.spikingjelly, export.snntorch):
        network = make(snn)
        found = torch.stack([network(*given) for _ in range(STEPS)]).cumsum(0)
        torch.testing.assert_close(found, snn(*given, steps=STEPS, backend="reference"), rtol=1e-12, atol=1e-12)


class Joining(nn.Module):
    """Joins and sums of signals with numbers, constants of any type, and by a mask of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 4)
        self.register_buffer("yes", torch.tensor([True, False, True, True]))
        self.register_buffer("gone", torch.tensor([0.0, -torch.inf, 0.0, 0.0]))
        self.register_buffer("amount", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x))
        h = torch.where(self.yes, h, -0.25) + self.yes
        h = torch.where(x[:, :1] > 0, h, 1 - h) - 0.5 * h.new_ones(4)
        h = torch.cat([torch.relu(self.other(h)), torch.ones_like(h)], 1)
        h[:, 2] = x[:, 0]
        h = torch.cat([h, h[:, :1]], h.dim() - 1)[:, :8] + torch.add(h, self.amount, alpha=h.shape[1])
        return (h[:, :4] + self.gone).softmax(1) + torch.add(h[:, 4:], 3, alpha=2)


@pytest.mark.parametrize("make", [export.spikingjelly, export.snntorch])
def test_constants_and_numbers_are_charged_whatever_joins_them(make: Callable[[SpikingNetwork], nn.Module]) -> None:
    torch.manual_seed(0)
    x = random(9, 3)
    snn = spiking(Joining().double(), x)
    network = make(snn)
    readout, expected = reference(snn, x)
    sent = watched(network, snn)
    found = torch.stack([network(x) for _ in range(STEPS)]).cumsum(0)
    equal_spikes(sent, snn, expected)
    torch.testing.assert_close(found, readout, rtol=1e-12, atol=1e-12)


def test_what_decides_and_is_joined_is_refused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return torch.where(mask, mask, torch.relu(self.one(x)))

    torch.manual_seed(0)
    given = random(5, 3), torch.rand(5, 4) > 0.3
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(Both().double(), 2, example=given), [given], "lsq"))
    with pytest.raises(NotConvertible, match=r"\nwhere \(where\): it joins a signal that also selects its operands$"):
        export.snntorch(snn)


def test_several_outputs_in_one_call() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Any:
            h = torch.relu(self.one(x))
            return {"h": h, "sums": [h.sum(1)]}

    torch.manual_seed(0)
    x = random(5, 3)
    snn = spiking(Two().double(), x)
    network = export.spikingjelly(snn)
    functional.set_step_mode(network, "m")
    found, wanted = network(x.expand(STEPS, *x.shape)), snn(x, steps=STEPS, backend="reference")
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found["h"].cumsum(0), wanted["h"])
    torch.testing.assert_close(found["sums"][0].cumsum(0), wanted["sums"][0])


@pytest.mark.parametrize("make", [export.spikingjelly, export.snntorch])
def test_other_inputs_begin_with_a_reset_and_another_type_goes_on(make: Callable[[SpikingNetwork], Any]) -> None:
    snn, x = residual()
    network = make(snn.float())
    network(x.float())
    for count in (1, 3):
        with pytest.raises(InvalidArgument, match=r"received inputs of another shape before .*: reset it first"):
            network(x[:count].float())
    network = make(snn)
    first = network(x.float())
    network.double()
    assert network(x).dtype == torch.float64
    assert first.dtype == torch.float32
    assert not network.training
    with pytest.raises(InvalidArgument, match=r"a network in torch\.bfloat16 would send other spikes"):
        make(copy.deepcopy(snn).bfloat16())


def test_a_quotient_waits_for_its_divisor() -> None:
    class Quotient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4, bias=False), nn.Linear(4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.one(x))
            return h / torch.relu(self.other(h))

    torch.manual_seed(0)
    model, x = Quotient().double(), random(5, 3)
    nn.init.constant_(model.other.weight, 0.3)
    snn = spiking(model, x)
    network, readout = export.snntorch(snn), snn(x, steps=STEPS, backend="reference")
    found = torch.stack([network(x) for _ in range(STEPS)]).cumsum(0)
    torch.testing.assert_close(found, readout, rtol=1e-12, atol=1e-12)


def test_a_constant_is_charged() -> None:
    x = random(5, 2, 8, 8)
    torch.manual_seed(0)
    snn = spiking(WithConstant(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).double(), x)
    network = export.snntorch(snn)
    found = torch.stack([network(x) for _ in range(STEPS)]).cumsum(0)
    torch.testing.assert_close(found, snn(x, steps=STEPS, backend="reference"), rtol=1e-12, atol=1e-12)
