"""Synaptic operations against counts by brute force: unit by unit through each operator, spike by spike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qffs.convert import quantize, to_spiking
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.functional.neuron import NeuronState
from qffs.measurement.cost import cost
from qffs.measurement.energy import Cost, Energy
from qffs.method import FiringRule
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.train.calibrate import calibrate

STEPS = 6
CLASSES = 3


class Branched(nn.Module):
    """Strides, borders, groups, a shortcut, both poolings and a layer that reads averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.wide = nn.Conv2d(4, 4, (1, 3), padding=(0, 1))
        self.strided = nn.Conv2d(4, 2, 2, stride=2)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.average = nn.AvgPool2d(2, 1)
        self.head = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.grouped(self.pool(x)) + self.wide(x) + x)
        x = torch.relu(self.strided(self.average(nn.functional.pad(x, (0, 1, 0, 1)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def data() -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 7, 9), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, CLASSES, (5,), generator=generator))


def normalize(images: Tensor) -> Tensor:
    return images.double() / 128 - 1


@pytest.fixture
def model() -> Branched:
    torch.manual_seed(1)
    model = Branched().double()
    for parameter in model.parameters():
        parameter.data *= 2  # so that some spikes are taken back
    return model


@pytest.fixture
def snn(model: Branched, data: Images) -> SpikingNetwork:
    x = normalize(data.images)
    return to_spiking(calibrate(quantize(model, 2, example=x), [x], "lsq"))


@pytest.fixture
def counted(snn: SpikingNetwork, data: Images) -> Cost:
    return cost(snn, data, normalize, STEPS, batch_size=2, progress=False)


def one_by_one(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Outputs that each unit reaches through an operator of random weights: unit by unit."""
    counts = torch.zeros(shape, dtype=torch.float64)
    zero = operator(torch.zeros(1, *shape, dtype=torch.float64))
    for unit in range(counts.numel()):
        x = torch.zeros(1, *shape, dtype=torch.float64)
        x.view(-1)[unit] = 1
        counts.view(-1)[unit] = ((operator(x) - zero).abs() > 1e-9).sum()
    return counts


def spikes_of(snn: SpikingNetwork, x: Tensor, steps: int = STEPS) -> list[Tensor]:
    """Of each layer, ``[T, B, ...]``."""
    spikes: list[Tensor] = []

    def see(_: str, sent: Tensor, __: NeuronState) -> None:
        spikes.append(sent)

    snn.run(x, steps=steps, observer=see)
    return spikes


def differences(g: Callable[[Tensor], Tensor], spikes: Tensor) -> Tensor:
    levels = torch.stack([g(z) for z in spikes.cumsum(0)])
    return torch.cat([levels[:1], levels[1:] - levels[:-1]])


def operations(events: Tensor, fan_out: Tensor) -> list[float]:
    return [float(((step != 0) * fan_out).sum()) / events.shape[1] for step in events]


@pytest.fixture
def read(snn: SpikingNetwork, model: Branched, data: Images) -> dict[str, tuple[Tensor, Tensor]]:
    """By operator: what it reads at each step, ``[T, B, ...]``, and the fan-out of each unit."""
    stem, added, last = spikes_of(snn, normalize(data.images))
    assert any(bool((spikes == -1).any()) for spikes in (stem, added, last))
    padded = nn.functional.pad(added, (0, 1, 0, 1))
    averaged = differences(model.average, padded)
    mean = differences(lambda z: z.mean((2, 3)), last)
    return {
        "grouped": (differences(model.pool, stem), one_by_one(model.grouped, (4, 4, 5))),
        "wide": (stem, one_by_one(model.wide, (4, 4, 5))),
        "add_1": (stem, torch.ones(4, 4, 5)),
        "average": (padded, one_by_one(model.average, (4, 5, 6))),
        "strided": (averaged, one_by_one(model.strided, (4, 4, 5))),
        "mean": (last, torch.ones(2, 2, 2)),
        "head": (mean, one_by_one(model.head, (2,))),
    }


def test_synaptic_operations_are_those_counted_spike_by_spike(
    read: dict[str, tuple[Tensor, Tensor]], counted: Cost
) -> None:
    found = {each.layer: each for each in counted.synapses}
    assert list(found) == ["stem", "grouped", "wide", "add_1", "average", "strided", "mean", "head"]
    assert sum(found["stem"].events) == 0
    for layer, (changes, fan_out) in read.items():
        by_step = [float(((step.abs() > 1e-9) * fan_out).sum()) / len(step) for step in changes]
        assert found[layer].events == pytest.approx(by_step, abs=1e-12), layer
        assert found[layer].count == int(fan_out.sum()), layer


def test_ends_are_those_of_levels(read: dict[str, tuple[Tensor, Tensor]], counted: Cost) -> None:
    found = {each.layer: each for each in counted.synapses}
    for layer in ("grouped", "wide", "add_1", "average", "mean"):
        changes, fan_out = read[layer]
        level, images = changes.sum(0).round().long(), changes.shape[1]
        ones = torch.tensor([0, 1, 1, 2])[level]  # that 0, 1, 2, 3 have
        assert found[layer].active == pytest.approx(float(((level > 0) * fan_out).sum()) / images), layer
        assert found[layer].set_bits == pytest.approx(float((ones * fan_out).sum()) / images), layer


def test_the_analog_input_passes_its_synapses_once(model: Branched, counted: Cost) -> None:
    stem = counted.synapses[0]
    assert stem.count == stem.analog == int(one_by_one(model.stem, (1, 7, 9)).sum())
    assert [each.analog for each in counted.synapses[1:]] == [0] * 7
    by_values = sum(sum(each.events) for each in counted.synapses if each.layer in {"strided", "head"})
    assert counted.operations["multiply-adds"] == pytest.approx(stem.analog + by_values)
    assert counted.operations["injected"] == 3 * sum(each.count for each in counted.units)


def test_what_is_counted_does_not_depend_on_the_batch(snn: SpikingNetwork, data: Images, counted: Cost) -> None:
    assert cost(snn, data, normalize, STEPS, batch_size=5, progress=False) == counted


def test_energy_is_that_of_the_sums_written_out() -> None:
    """Two inputs, three neurons, two outputs; 2 bits, D = 1, and weights that make neuron k fire k times."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).double()
    model[0].weight.data = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    qann = quantize(model, 2, example=torch.ones(1, 2, dtype=torch.float64))
    for module in qann.modules():
        if isinstance(module, Quantizer):
            module.set_step_size(torch.tensor(1.0))
    images = Images(torch.ones(2, 2, 1, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    found = cost(to_spiking(qann, 1), images, lambda x: x.flatten(1).double(), 4, progress=False)
    assert found.spikes == (6, 0)
    first, last = found.synapses
    assert (first.count, first.analog, first.bits) == (6, 6, None)
    assert (last.count, last.analog, last.bits) == (6, 0, 2)
    assert last.events == (6, 4, 2, 0)  # two synapses from each neuron that fires
    assert (last.active, last.set_bits) == (6, 2 * (1 + 1 + 2))
    assert found.operations == {"synaptic": 12, "multiply-adds": 6, "injected": 3}
    assert found.energy_pj == pytest.approx(
        {
            "full precision": 12 * 4.6,
            "QANN": 6 * 4.6 + 6 * 2 * 0.9,
            "QANN, zeros skipped": 6 * 4.6 + 8 * 0.9,
            "SNN": 6 * 4.6 + 12 * 0.9 + 3 * 0.9,
        }
    )
    assert found.bits_sent == {"full precision": 96, "QANN": 6, "SNN, signs": 6, "SNN, with addresses": 18}
    other = cost(to_spiking(qann, 1), images, lambda x: x.flatten(1).double(), 4, energy=Energy(1, 0), progress=False)
    assert other.energy_pj["SNN"] == 6


def test_other_operators_between_neurons_are_told() -> None:
    class Gated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x)
            return torch.relu(x * torch.sigmoid(x))

    example = torch.rand(2, 3, dtype=torch.float64)
    snn = to_spiking(calibrate(quantize(Gated(), 2, example=example), [example], "lsq"))
    images = Images(torch.ones(2, 3, 1, 1, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    found = cost(snn, images, lambda x: x.flatten(1).double(), 4, progress=False)
    assert found.uncounted == ("sigmoid at sigmoid", "mul at mul")


def test_energy_by_step_ends_at_that_of_the_whole_run(counted: Cost) -> None:
    found = counted.spiking_pj
    assert len(found) == STEPS
    assert found[-1] == pytest.approx(counted.energy_pj["SNN"])
    assert list(found) == sorted(found)
    charged = sum(each.count for each in counted.units if each.charged)
    first = sum(each.events[0] * (0.9 if each.bits or not each.weighted else 4.6) for each in counted.synapses)
    assert found[0] == pytest.approx(counted.analog_pj + 0.9 * charged + first)
    assert counted.analog_pj > 0


def test_several_spikes_at_once_are_values(model: Branched, data: Images) -> None:
    """One event, multiplied, however many spikes it carries, all of which are counted."""
    x = normalize(data.read(torch.arange(len(data))))
    qann = calibrate(quantize(model, 2, example=x), [x], "lsq")
    single, several = (
        cost(to_spiking(qann, (1.0,), rule), data, normalize, 12, progress=False)
        for rule in (FiringRule(), FiringRule(multi_spike=True))
    )
    levels = [sum(each.positive) - sum(each.negative) for each in single.activity]
    assert [sum(each.positive) - sum(each.negative) for each in several.activity] == levels
    weighted = {each.layer: each for each in single.synapses if each.weighted and each.bits}
    assert len(weighted) == 2
    for each in several.synapses:
        assert each.bits is None
        if each.layer in weighted:
            assert 0 < sum(each.events) < sum(weighted[each.layer].events)
            assert each.event_pj(Energy()) > weighted[each.layer].event_pj(Energy())


@pytest.mark.parametrize("energy", [(-1, 1), (1, float("nan")), ("a", 1), (1, float("inf"))], ids=str)
def test_energy_that_is_none_is_refused(energy: tuple[float, float]) -> None:
    with pytest.raises(InvalidArgument, match="must be a number of pJ"):
        Energy(*energy)


class OwnWeights(nn.Module):
    """Functions with weights of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 1, 3, 3, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.float64))
        self.matrix = nn.Parameter(torch.randn(4, 2, dtype=torch.float64))


class Convolved(OwnWeights):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel, self.bias, stride=2, padding=1, groups=3)


class Multiplied(OwnWeights):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (Convolved(), (3, 5, 4)),
        (Multiplied(), (3, 4)),
        (nn.Linear(5, 3), (5,)),
        (nn.Conv1d(2, 3, 3, stride=2, dilation=2), (2, 9)),
        (nn.Conv3d(1, 2, 2, padding=1), (1, 2, 3, 2)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), (2, 3, 3)),
        (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 4)),
        (nn.AvgPool1d(3, 2, 1), (2, 6)),
    ],
    ids=str,
)
def test_fan_out_of_operators(operator: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), operator).double()
    example = torch.rand(2, *shape, dtype=torch.float64)
    snn = to_spiking(calibrate(quantize(model, 2, example=example), [example], "lsq"))
    images = Images(torch.ones(1, *shape[:1], 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    found = cost(snn, images, lambda _: example[:1], 4, progress=False)
    (spikes,) = spikes_of(snn, example[:1], 4)
    fan_out = one_by_one(operator, shape)
    assert found.synapses[-1].events == pytest.approx([float(((z != 0) * fan_out).sum()) for z in spikes])


def counted_on(model: nn.Module, example: Tensor, **options: bool) -> Cost:
    """What a network costs on one image, of its own kind."""
    snn = to_spiking(calibrate(quantize(model.double(), 2, example=example, **options), [example], "lsq"))
    images = Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    return cost(snn, images, lambda _: example[:1], 6, progress=False)


class Joined(nn.Module):
    """The input goes round the first neurons, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.cat([x, torch.relu(self.a(x))], 1))


def test_of_what_is_joined_only_the_input_is_analog() -> None:
    torch.manual_seed(0)
    found = {each.layer: each for each in counted_on(Joined(), torch.rand(2, 2, 5, 5, dtype=torch.float64)).synapses}
    assert found["b"].count == 3 * found["b"].analog
    assert found["b"].bits == 2
    energy = found["b"].energy_pj(Energy(1, 0))
    assert energy == {"full precision": found["b"].count, **dict.fromkeys(list(energy)[1:], found["b"].analog)}


class Broadcast(nn.Module):
    """Sums that broadcast, and neurons that nothing is injected into."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return torch.relu(x + x + torch.relu(x.sum((2, 3)))[:, :, None, None])


def test_synapses_of_sums_are_counted_where_they_are_broadcast() -> None:
    found = counted_on(Broadcast(), torch.rand(2, 3, 4, 4, dtype=torch.float64))
    assert {each.layer: each.count for each in found.synapses} == {"sum_1": 48, "add": 96, "add_1": 48}
    assert [each.charged for each in found.units] == [True, False, False]
    assert found.operations["injected"] == 3 * 48


class Shuffled(nn.Module):
    """Channels joined, mixed and parted, and every spike still of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(x), torch.relu(self.a(x))], 1)
        x = nn.functional.interpolate(nn.functional.channel_shuffle(x, 2), scale_factor=2.0)
        return self.b(x.chunk(2, 1)[0])


class Pooled(nn.Module):
    """The largest of channels, which have thresholds of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x).amax(1).flatten(1))


def test_events_of_one_size_are_told_from_values() -> None:
    example = torch.rand(2, 2, 4, 4, dtype=torch.float64)
    assert counted_on(Shuffled(), example).synapses[-1].bits == 2
    assert counted_on(Pooled(), example).synapses[-1].bits == 2
    assert counted_on(Pooled(), example, per_channel=True).synapses[-1].bits is None


def test_linear_operators_that_are_no_synapses_are_told() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(2 * torch.relu(x), scale_factor=2.0, mode="bilinear")

    found = counted_on(Scaled(), torch.rand(2, 2, 4, 4, dtype=torch.float64))
    assert found.uncounted == ("mul at mul", "interpolate at interpolate")
