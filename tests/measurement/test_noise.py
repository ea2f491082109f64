"""The four noises, on neurons worked out by hand and on networks against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qffs.convert import quantize, to_spiking
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.measurement.cost import cost
from qffs.measurement.noise import LONGER, NOISES, noise, sort, without
from qffs.method import FiringRule
from qffs.nn.neuron import Neuron
from qffs.spiking.network import SpikingNetwork
from qffs.train.calibrate import calibrate
from qffs.verification import levels_of

STEPS = 6


def noises_of(currents: list[float], level: int, neuron: Neuron | None = None) -> list[str | None]:
    """The noise of one neuron, θ = 1 and n = 3 unless given, after each step."""
    neuron = neuron or Neuron(3, FiringRule(precharge=0.5))
    state, found = neuron.rest(torch.zeros(1)), []
    for number, current in enumerate(currents):
        _, state = neuron(state, None, torch.tensor([[current]]), (0.0,))
        masks = sort(neuron, 0.5, state, torch.tensor([float(level)]), number + 1)
        assert sum(map(int, masks)) <= 1
        found.append(next((name for name, mask in zip(NOISES, masks, strict=True) if mask), None))
    return found


class TestOneNeuron:
    def test_the_papers_two_situations(self) -> None:
        """-1 nine times and then 13 (level 3 of at most 3): one spike so far; 1 eight times and then -2 twice."""
        late = noises_of([-1.0] * 9 + [13.0], 3)
        assert late == ["rate_coding"] * 9 + ["under_fired"]
        early = noises_of([1.0] * 3 + [-2.0] + [0.0], 1, Neuron(3, FiringRule(precharge=0.5, negative_spikes=False)))
        assert early == [None, "rate_coding", "rate_coding", "over_fired", "over_fired"]

    def test_a_negative_spike_a_step_pays_back(self) -> None:
        assert noises_of([1.0, 1.0, 1.0, -3.0, 0.0, 0.0], 0) == [*["rate_coding"] * 3, "over_fired", "over_fired", None]

    def test_more_than_one_spike_a_step(self) -> None:
        assert noises_of([3.0, 0.0, 0.0], 3) == ["supra_threshold", "supra_threshold", None]

    def test_without_a_precharge_the_residue_is_rounded_down(self) -> None:
        assert noises_of([0.75], 1) == [None]
        assert noises_of([0.75], 1, Neuron(3, FiringRule(precharge=0.0))) == ["sub_threshold"]

    def test_without_a_cap_more_than_the_highest_level(self) -> None:
        free = Neuron(3, FiringRule(precharge=0.5, cap=False))
        assert noises_of([1.0] * 4, 3, free) == ["rate_coding", "rate_coding", None, "over_fired"]

    def test_none(self) -> None:
        assert noises_of([1.0, 1.0, 0.25], 2) == ["rate_coding", None, None]


@pytest.fixture
def data() -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 1, 5, 5), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 3, (7,), generator=generator))


def normalize(images: Tensor) -> Tensor:
    return images.double() / 128 - 1


@pytest.fixture
def qann(data: Images) -> nn.Module:
    torch.manual_seed(8)
    layers = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8), nn.ReLU())
    model = nn.Sequential(*layers, nn.Linear(8, 3)).double()
    for parameter in model.parameters():
        parameter.data *= 2
    return calibrate(quantize(model, 2, example=normalize(data.images)), [normalize(data.images)], "lsq")


@pytest.fixture
def snn(qann: nn.Module) -> SpikingNetwork:
    return to_spiking(qann)


@pytest.mark.parametrize("off", [None, "negative spikes"])
def test_counts_are_those_of_levels_that_differ(
    off: str | None, data: Images, qann: nn.Module, snn: SpikingNetwork
) -> None:
    """All noises together are all the neurons whose count is not the level, but for errors that cancel."""
    snn = without(snn, off) if off else snn
    found = noise(snn, qann, data, normalize, STEPS, batch_size=3, progress=False)
    x = normalize(data.images)
    _, levels = levels_of(qann, x)
    sent: dict[str, list[Tensor]] = {}
    snn.run(x, steps=STEPS, chunk=1, observer=lambda path, _, state: sent.setdefault(path, []).append(state.sent))
    assert [each.layer for each in found.layers] == list(sent)
    for layer in found.layers:
        assert layer.neurons == sent[layer.layer][0][0].numel()
        for t, count in enumerate(sent[layer.layer]):
            wrong = float((count != levels[layer.layer]).sum()) / len(x)
            suffering = sum(getattr(layer, name)[t] for name in NOISES)
            assert suffering >= wrong - 1e-9
            if not off and t == STEPS - 1:
                assert suffering == wrong == 0
        assert layer.sub_threshold == (0.0,) * STEPS
    assert any(sum(layer.over_fired) for layer in found.layers) is bool(off)
    assert any(sum(layer.rate_coding) for layer in found.layers)


def test_layers_settle_at_their_last_spike(data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    found = noise(snn, qann, data, normalize, STEPS, batch_size=3, progress=False)
    last: dict[str, list[int]] = {path: [0] * len(data) for path, _ in snn.neurons()}

    def see(path: str, spikes: Tensor, _: object) -> None:
        for image in range(len(data)):
            fired = [t + 1 for t in range(STEPS) if bool((spikes[t, image] != 0).any())]
            last[path][image] = max(fired, default=0)

    snn.run(normalize(data.images), steps=STEPS, observer=see)
    for layer in found.layers:
        assert layer.settled == pytest.approx(sum(last[layer.layer]) / len(data))
        assert layer.settled_last == max(last[layer.layer])


def test_remedies_are_switched_off_one_by_one(data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    found = noise(snn, qann, data, normalize, STEPS, batch_size=3, progress=False)
    x = normalize(data.images)
    expected = qann(x).detach()
    assert found.qann_accuracy == pytest.approx(float((expected.argmax(-1) == data.labels).double().mean()))
    rules = {
        "nothing": to_spiking(qann),
        "negative spikes": to_spiking(qann, rule=FiringRule(negative_spikes=False)),
        "cap": to_spiking(qann, rule=FiringRule(cap=False)),
        "pre-charge": to_spiking(qann, rule=FiringRule(precharge=0)),
    }
    outputs = {name: network(x, steps=STEPS, backend="reference")[-1] for name, network in rules.items()}
    outputs[LONGER] = snn(x, steps=STEPS, backend="reference")[snn.schedule.steps - 1]
    assert [each.off for each in found.remedies] == list(outputs)
    for remedy in found.remedies:
        output = outputs[remedy.off]
        assert remedy.accuracy == pytest.approx(float((output.argmax(-1) == data.labels).double().mean()))
        assert remedy.agreement == pytest.approx(float((output.argmax(-1) == expected.argmax(-1)).double().mean()))
        error = (output - expected).norm() / expected.norm()
        assert remedy.output_error == pytest.approx(float(error), abs=1e-9)
    errors = {each.off: each.output_error for each in found.remedies}
    assert errors["nothing"] < 1e-9
    assert min(errors[name] for name in ("negative spikes", "cap", "pre-charge", LONGER)) > 0.01


def test_what_does_not_fit_is_refused(data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    other = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)).double()
    small = quantize(other, 2, example=normalize(data.images))
    with pytest.raises(InvalidArgument, match="the quantized one no quantizer"):
        noise(snn, small, data, normalize, STEPS, progress=False)
    with pytest.raises(InvalidArgument, match="at least as many steps"):
        noise(snn, qann, data, normalize, 1, progress=False)
    with pytest.raises(InvalidArgument, match="the remedies of a neuron are"):
        without(snn, "luck")


def test_outputs_that_are_all_0_have_no_share(data: Images) -> None:
    torch.manual_seed(0)
    x, layers = normalize(data.images), (nn.Flatten(), nn.Linear(25, 6), nn.ReLU(), nn.Linear(6, 3))
    qann = calibrate(quantize(nn.Sequential(*layers).double(), 2, output=2, example=x), [x], "lsq")
    found = noise(to_spiking(qann), qann, data, normalize, 8, progress=False)
    assert all(each.output_error is not None for each in found.remedies)
    bias = qann.get_submodule("3").bias
    assert isinstance(bias, Tensor)
    bias.data.fill_(-100)
    found = noise(to_spiking(qann), qann, data, normalize, 8, progress=False)
    assert [each.output_error for each in found.remedies] == [None] * 5


class Turned(nn.Module):
    """Images in dimension 1 at its first neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.rows(x.flatten(1).unflatten(1, (5, 5)).transpose(0, 1)))
        return self.head(x.mean(0))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_images_may_lie_in_another_dimension(batch: int, data: Images) -> None:
    torch.manual_seed(0)
    x = normalize(data.images)
    qann = calibrate(quantize(Turned().double(), 2, example=x), [x], "lsq")
    (layer,) = noise(to_spiking(qann), qann, data, normalize, 8, batch_size=batch, progress=False).layers
    assert layer.neurons == 20
    last: list[int] = []
    for image in x:
        spikes: list[Tensor] = []
        to_spiking(qann).run(image[None], steps=8, observer=lambda _, sent, __, seen=spikes: seen.append(sent))
        last.append(max((t + 1 for t in range(8) if bool((spikes[0][t] != 0).any())), default=0))
    assert layer.settled == pytest.approx(sum(last) / len(last))
    found = cost(to_spiking(qann), data, normalize, 8, batch_size=batch, progress=False)
    assert [each.count for each in found.units] == [20]
    assert {each.layer: each.count for each in found.synapses} == {"rows": 5 * 5 * 4, "mean": 20, "head": 4 * 3}
