"""Measurement against loops written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qffs.convert import quantize, to_spiking
from qffs.data import Images
from qffs.errors import InvalidArgument, QffsError
from qffs.measurement.accuracy import accuracy, measure
from qffs.measurement.batches import check_fit
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.stream import margins
from qffs.train.calibrate import calibrate

STEPS = 5


@pytest.fixture
def data() -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (11, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 3, (11,), generator=generator))


def normalize(images: Tensor) -> Tensor:
    return images.double() / 128 - 1


@pytest.fixture
def qann(data: Images) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(3, 5), nn.ReLU())
    model = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(5, 3)).double()
    for parameter in model.parameters():
        parameter.data *= 2  # so that some spikes are taken back
    return calibrate(quantize(model, 2, example=normalize(data.images)), [normalize(data.images)], "lsq")


@pytest.fixture
def snn(qann: nn.Module) -> SpikingNetwork:
    return to_spiking(qann)


def test_every_number_is_that_of_a_loop_over_single_images(data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    qann.train()  # measured in eval mode all the same
    measured = measure(snn, data, normalize, STEPS, qann=qann, batch_size=4, progress=False)
    assert qann.training
    qann.eval()
    right, equal, qann_right = [0] * STEPS, [0] * STEPS, 0
    positive: dict[str, list[int]] = {path: [0] * STEPS for path, _ in snn.neurons()}
    negative: dict[str, list[int]] = {path: [0] * STEPS for path, _ in snn.neurons()}

    def count(path: str, spikes: Tensor, _: object) -> None:
        for step in range(STEPS):
            for spike in spikes[step].flatten().tolist():
                positive[path][step] += spike == 1
                negative[path][step] += spike == -1

    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        x = normalize(image[None])
        readout, _ = snn.run(x, steps=STEPS, observer=count)
        expected = int(qann(x)[0].argmax())
        qann_right += expected == label
        for step in range(STEPS):
            right[step] += int(readout[step, 0].argmax()) == label
            equal[step] += int(readout[step, 0].argmax()) == expected

    assert measured.images == 11
    assert measured.accuracy == tuple(hits / 11 for hits in right)
    assert measured.agreement == tuple(hits / 11 for hits in equal)
    assert measured.qann_accuracy == qann_right / 11 == accuracy(qann, data, normalize, progress=False)
    assert {each.layer: list(each.positive) for each in measured.activity} == positive
    assert {each.layer: list(each.negative) for each in measured.activity} == negative
    assert sum(map(sum, negative.values())) > 0
    totals = [sum(positive[path][step] + negative[path][step] for path in positive) for step in range(STEPS)]
    assert measured.spikes_per_image == tuple(sum(totals[: step + 1]) / 11 for step in range(STEPS))
    assert len(set(measured.accuracy)) > 1


def test_stopping_early_is_that_of_a_stream(data: Images, snn: SpikingNetwork) -> None:
    typical = float(margins(snn(normalize(data.images), steps=STEPS, backend="reference")).median())
    chosen = (typical / 4, typical, 1e9)
    measured = measure(snn, data, normalize, STEPS, stop_when=chosen, batch_size=4, progress=False)
    assert len({each.steps for each in measured.stopping}) == 3
    for margin, found in zip(chosen, measured.stopping, strict=True):
        stopped = snn.stream().run(normalize(data.images), stop_when=margin, longest=STEPS)
        assert found.margin == margin
        assert found.steps == pytest.approx(float(stopped.steps.double().mean()))
        assert found.accuracy == int((stopped.readout.argmax(-1) == data.labels).sum()) / 11
    assert measured.stopping[-1].accuracy == measured.accuracy[-1]
    assert measured.stopping[-1].steps == STEPS
    assert measure(snn, data, normalize, STEPS, progress=False).stopping == ()
    with pytest.raises(InvalidArgument, match="stop_when must be a finite number above 0, not -1"):
        measure(snn, data, normalize, STEPS, stop_when=[-1.0], progress=False)


@pytest.mark.parametrize("batch_size", [1, 3, 11, 500])
def test_the_batch_size_changes_nothing(batch_size: int, data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    whole = measure(snn, data, normalize, STEPS, qann=qann, stop_when=(0.1,), progress=False)
    parts = measure(snn, data, normalize, STEPS, qann=qann, stop_when=(0.1,), batch_size=batch_size, progress=False)
    assert parts == whole
    assert accuracy(qann, data, normalize, batch_size=batch_size, progress=False) == whole.qann_accuracy


@pytest.mark.parametrize(
    ("count", "side", "of_network", "of_simulation"), [(501, 32, 500, 32), (50, 224, 41, 8), (2, 4096, 1, 1)]
)
def test_large_images_run_few_at_a_time(count: int, side: int, of_network: int, of_simulation: int) -> None:
    images = Images(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 1, side, side), torch.zeros(count).long())
    at_once: list[int] = []

    def corners(pictures: Tensor) -> Tensor:
        at_once.append(len(pictures))
        return pictures[:, 0, :1, 0].float()

    qann = quantize(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)), 2, example=torch.ones(2, 1))
    snn = to_spiking(calibrate(qann, [torch.ones(2, 1)], "lsq"))
    accuracy(qann, images, corners, progress=False)
    assert (max(at_once), sum(at_once)) == (of_network, count)
    at_once.clear()
    measure(snn, images, corners, 5, progress=False)
    assert (max(at_once), sum(at_once)) == (of_simulation, count)


class OnDemand:
    """Images that are read when they are asked for: there is no tensor of all of them."""

    def __init__(self, whole: Images) -> None:
        self.labels, self.shape, self.read = whole.labels, whole.shape, whole.read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        return self.read(torch.tensor(numbers)), self.labels[torch.tensor(numbers)]


def test_images_may_be_read_by_number_and_ahead(data: Images, qann: nn.Module, snn: SpikingNetwork) -> None:
    expected, on_demand = measure(snn, data, normalize, STEPS, qann=qann, progress=False), OnDemand(data)
    check_fit(snn, on_demand, normalize, 3, "it")
    assert measure(snn, on_demand, normalize, STEPS, qann=qann, batch_size=4, progress=False) == expected
    assert accuracy(qann, on_demand, normalize, batch_size=4, progress=False) == expected.qann_accuracy
    ahead = accuracy(qann, data, normalize, batch_size=4, workers=1, progress=False)
    assert ahead == measure(snn, data, normalize, STEPS, qann=qann, workers=1, progress=False).qann_accuracy
    assert ahead == expected.qann_accuracy


def test_without_a_quantized_network_there_is_nothing_to_agree_with(data: Images, snn: SpikingNetwork) -> None:
    measured = measure(snn, data, normalize, STEPS, progress=False)
    assert measured.qann_accuracy is None
    assert measured.agreement is None


def test_images_come_in_the_type_of_the_network(data: Images, snn: SpikingNetwork) -> None:
    measured = measure(snn.float(), data, normalize, STEPS, progress=False)
    assert measured.images == 11


def test_fewer_steps_than_charge_steps_are_refused(data: Images, snn: SpikingNetwork) -> None:
    with pytest.raises(InvalidArgument, match="at least as many steps as the 3 charge steps"):
        measure(snn, data, normalize, 2, progress=False)


def test_an_output_that_is_no_classification_is_refused(data: Images) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1)).double()
    x = normalize(data.images)
    snn = to_spiking(calibrate(quantize(model, 2, example=x), [x], "lsq"))
    with pytest.raises(InvalidArgument, match=r"one output of shape \[B, classes\]"):
        measure(snn, data, normalize, STEPS, progress=False)
    with pytest.raises(InvalidArgument, match=r"it returns \[3, 2, 2\] numbers per image, but the data have 3 classes"):
        check_fit(snn, data, normalize, 3, "it")


def test_data_that_do_not_fit_are_found_before_the_measurement(
    data: Images, qann: nn.Module, snn: SpikingNetwork
) -> None:
    color = Images(data.images.expand(-1, 3, -1, -1), data.labels)
    before = {name: tensor.clone() for name, tensor in qann.state_dict().items()}
    for network in (snn, qann):
        check_fit(network, data, normalize, 3, "it")
        with pytest.raises(InvalidArgument, match=r"^it does not run on images of 3 x 4 x 4: "):
            check_fit(network, color, normalize, 3, "it")
        with pytest.raises(InvalidArgument, match=r"^it returns \[3\] numbers per image, but the data have 4 classes"):
            check_fit(network, data, normalize, 4, "it")
    assert all(torch.equal(tensor, before[name]) for name, tensor in qann.state_dict().items())

    def refuses(_: Tensor) -> Tensor:
        raise QffsError("said already")

    with pytest.raises(QffsError, match=r"^said already$"):
        check_fit(snn, data, refuses, 3, "it")
