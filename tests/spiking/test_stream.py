"""Step by step with explicit state, frames, and stopping early."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.networks import NETWORKS
from qffs.errors import Diverged, InvalidArgument
from qffs.graph.nested import tensors
from qffs.spiking import stream as streams
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.operations import Operations
from qffs.spiking.stream import Moment, margins
from test_verification import some_quickly, spiking

STEPS = 10


@pytest.fixture(scope="module")
def qann() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(16, 3))
    x = torch.randn(64, 2, 8, 8).double()
    return qffs.calibrate(qffs.quantize(model.double(), 2, example=x), [x], "lsq")


@pytest.fixture(scope="module")
def snn(qann: nn.Module) -> SpikingNetwork:
    return qffs.to_spiking(qann, 3)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(40, 2, 8, 8).double()


@some_quickly
def test_steps_read_out_what_the_network_does(name: str) -> None:
    inputs, snn = NETWORKS[name].inputs(), spiking(name)
    expected = snn(*inputs, steps=STEPS, backend="reference")
    if not isinstance(expected, Tensor):
        with pytest.raises(InvalidArgument, match="a stream needs a network with one output"):
            snn.stream().step(snn.stream().begin(*inputs))
        return
    stream = snn.stream()
    moment = stream.begin(*inputs)
    for steps, readout in enumerate(expected, 1):
        moment = stream.step(moment)
        assert moment.steps == steps
        torch.testing.assert_close(moment.readout, readout, rtol=1e-9, atol=1e-9)


def test_a_moment_stays_as_it_is(snn: SpikingNetwork, x: Tensor) -> None:
    stream = snn.stream()
    moment = stream.step(stream.step(stream.begin(x)))
    held = [each.clone() for each in (moment.readout, *moment.state.neurons["1"]) if each is not None]
    first, other, second = stream.step(moment), stream.step(moment, x + 1), stream.step(moment)
    assert torch.equal(first.readout, second.readout)  # type: ignore[arg-type]
    assert not torch.equal(first.readout, other.readout)  # type: ignore[arg-type]
    assert all(map(torch.equal, held, (moment.readout, *moment.state.neurons["1"])))  # type: ignore[arg-type]
    assert moment.steps == 2


def test_frames_add_up_by_the_schedule(qann: nn.Module, x: Tensor) -> None:
    snn = qffs.to_spiking(qann, [0.5, 0.25, 0.25])
    stream, frames = snn.stream(), [x, x.roll(1, 0), -x]
    moment = stream.begin(frames[0])
    for frame in frames:
        moment = stream.step(moment, frame)
    for _ in range(40):
        moment = stream.step(moment)
    mean = sum(weight * frame for weight, frame in zip(snn.schedule.weights, frames, strict=True))
    torch.testing.assert_close(moment.readout, qann(mean), rtol=1e-9, atol=1e-9)
    same = stream.begin(x)
    for _ in range(4):
        same = stream.step(same, x)
    torch.testing.assert_close(same.readout, snn(x, steps=4, backend="reference")[-1], rtol=1e-9, atol=1e-9)


def test_what_lies_before_the_first_neurons_is_computed_once_a_frame(snn: SpikingNetwork, x: Tensor) -> None:
    ran: list[int] = []
    first = next(node.target for node in snn.graph.graph.nodes if node.op == "call_module")
    handle = snn.graph.get_submodule(str(first)).register_forward_hook(lambda *_: ran.append(1))
    try:
        stream = snn.stream()
        moment = stream.begin(x)
        for _ in range(5):
            moment = stream.step(moment)
        assert len(ran) == 1
        stream.step(stream.step(moment, -x))
        assert len(ran) == 2
    finally:
        handle.remove()


def stopped_by_hand(readout: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """What each image of ``[T, B, classes]`` gives when it stops, and its steps."""
    outputs, steps = [], []
    for image in range(readout.shape[1]):
        for step in range(len(readout)):
            first, second = sorted(readout[step, image].tolist(), reverse=True)[:2]
            if first - second >= margin or step == len(readout) - 1:
                outputs.append(readout[step, image])
                steps.append(step + 1)
                break
    return torch.stack(outputs), torch.tensor(steps)


def between(values: Tensor) -> float:
    """The middle of the widest gap in the middle half of the values: no order of additions moves one across it."""
    ordered = values.flatten().sort().values
    middle = ordered[len(ordered) // 4 : 3 * len(ordered) // 4 + 1]
    gaps = middle.diff()
    assert float(gaps.max()) > 1e-6
    return float(middle[gaps.argmax()] + gaps.max() / 2)


def test_images_stop_at_a_margin() -> None:
    snn, inputs = spiking("resnet18"), NETWORKS["resnet18"].inputs()
    readout = snn(*inputs, steps=STEPS, backend="reference")
    for margin in (1e-12, between(margins(readout)), 1e9):
        outputs, steps = stopped_by_hand(readout, margin)
        stopped = snn.stream().run(*inputs, stop_when=margin, longest=STEPS)
        assert torch.equal(stopped.steps, steps)
        torch.testing.assert_close(stopped.readout, outputs, rtol=1e-9, atol=1e-9)


def test_images_that_have_stopped_are_not_computed(
    snn: SpikingNetwork, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    advance = streams.advance

    def counted(operations: Operations, state: streams.State, charge: tuple[float, ...]) -> object:
        ran.append(len(state.inputs[0]))
        return advance(operations, state, charge)

    monkeypatch.setattr(streams, "advance", counted)
    readout = snn(x, steps=STEPS, backend="reference")
    margin = between(margins(readout[4]))
    outputs, steps = stopped_by_hand(readout, margin)
    stopped = snn.stream().run(x, stop_when=margin, longest=STEPS)
    assert torch.equal(stopped.steps, steps)
    torch.testing.assert_close(stopped.readout, outputs, rtol=1e-9, atol=1e-9)
    assert ran == [int((steps > t).sum()) for t in range(len(ran))]
    assert ran[0] == len(x)
    assert ran[-1] < len(x)


@pytest.mark.slow
def test_networks_whose_signals_turn_the_images_stop_too() -> None:
    turned = [name for name in NETWORKS if not spiking(name).operations.images_first]
    tried = 0
    for name in turned:
        snn, inputs = spiking(name), NETWORKS[name].inputs()
        readout = snn(*inputs, steps=STEPS, backend="reference")
        if isinstance(readout, Tensor) and readout.dim() == 3 and readout.shape[-1] > 1:
            margin = between(margins(readout))
            stopped = snn.stream().run(*inputs, stop_when=margin, longest=STEPS)
            outputs, steps = stopped_by_hand(readout, margin)
            assert torch.equal(stopped.steps, steps), name
            torch.testing.assert_close(stopped.readout, outputs, rtol=1e-9, atol=1e-9)
            tried += 1
    assert tried


def test_what_does_not_fit_is_refused(snn: SpikingNetwork, x: Tensor) -> None:
    stream = snn.stream()
    with pytest.raises(InvalidArgument, match=r"frames must have the shapes of those before, \[\(40, 2, 8, 8\)\]"):
        stream.step(stream.begin(x), x[:3])
    with pytest.raises(Diverged, match="NaN or infinity"):
        stream.step(stream.begin(x), x * float("nan"))
    with pytest.raises(InvalidArgument, match="the network does not run on inputs of"):
        stream.step(stream.begin(x[:, :1]))
    for margin in (0, -1.0, float("nan"), float("inf"), True, "2"):
        with pytest.raises(InvalidArgument, match="stop_when must be a finite number above 0"):
            stream.run(x, stop_when=margin, longest=STEPS)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="at least as many steps"):
        stream.run(x, stop_when=1.0, longest=2)
    with pytest.raises(InvalidArgument, match=r"to stop by a margin takes outputs \[B, classes\]"):
        margins(torch.zeros(3, 1))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    rows = torch.randn(5, 5, 3)
    of_rows = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=rows), [rows], "lsq"))
    with pytest.raises(InvalidArgument, match=r"takes outputs \[B, classes\], not \[5, 5, 5\]"):
        of_rows.stream().run(rows, stop_when=1.0, longest=STEPS)


def test_no_image_gives_none(snn: SpikingNetwork, x: Tensor) -> None:
    stopped = snn.stream().run(x[:0], stop_when=1.0, longest=STEPS)
    assert stopped.readout.shape == (0, 3)
    assert stopped.steps.shape == (0,)


def test_a_stream_holds_nothing(snn: SpikingNetwork, x: Tensor) -> None:
    first, second = snn.stream(), snn.stream()
    moment = first.step(first.begin(x))
    assert isinstance(moment, Moment)
    assert torch.equal(second.step(moment).readout, first.step(moment).readout)  # type: ignore[arg-type]
    assert len(tensors(vars(first))) == 0
