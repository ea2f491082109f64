"""The laws of the method on whole networks."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qffs
from helpers.problems import calibrated, dyadic, images, network, randomize
from qffs.errors import Diverged, InvalidArgument, Mismatch
from qffs.functional.neuron import NeuronState
from qffs.method import FiringRule, Schedule
from qffs.nn.quantizer import OFFSET
from qffs.spiking.network import SpikingNetwork

seeds = st.integers(0, 10**6)
few = settings(max_examples=15)


def spikes_of(snn: SpikingNetwork, *x: Tensor, steps: int, chunk: int | None = None) -> dict[str, Tensor]:
    """The spikes [T, B, ...] of every layer."""
    seen: dict[str, list[Tensor]] = {}

    def observe(path: str, spikes: Tensor, state: NeuronState) -> None:
        seen.setdefault(path, []).append(spikes)

    snn.run(*x, steps=steps, chunk=chunk, observer=observe)
    return {path: torch.cat(parts) for path, parts in seen.items()}


@few
@given(seeds, st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 3, 5, (0.5, 0.25, 0.25), (0.0, 1.0)]))
def test_lossless(seed: int, blocks: int, bits: int, charge: Any) -> None:
    """The theorem: every layer's count equals the QANN's level, whatever depth, bits and schedule; law 2."""
    x = images(seed)
    qann = calibrated(network(seed, blocks=blocks), x, bits)
    snn = qffs.to_spiking(qann, charge)
    compared = qffs.verify(qann, snn, x, tie_tolerance=0)
    assert len(compared.layers) == blocks + 2
    assert compared.deviation < 1e-9
    torch.testing.assert_close(snn(x, steps=compared.steps)[-1], qann(x).detach(), rtol=1e-9, atol=1e-9)


@few
@given(seeds, st.integers(1, 2), st.sampled_from([1, 2, 4]))
def test_lossless_on_exact_ties(seed: int, blocks: int, charge: int) -> None:
    """With exact arithmetic the outputs are equal to the last bit, although many sums end on a tie."""
    qann, x = dyadic(seed, blocks)
    compared = qffs.verify(qann, qffs.to_spiking(qann, charge), x, tie_tolerance=0)
    assert compared.deviation == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("charge", [3, 7])
def test_off_the_ties(charge: int, dtype: torch.dtype) -> None:
    """Law 6: charged in thirds or sevenths, sums that end on a tie fall as rounding errors will.

    The same small offset in quantizer and pre-charge moves the ties out of the way.
    """
    differs = dict.fromkeys((0.5, OFFSET), 0)
    for seed in range(6):
        for offset in differs:
            qann, x = dyadic(seed, offset=offset)
            try:
                qffs.verify(qann.to(dtype), qffs.to_spiking(qann, charge), x.to(dtype), tie_tolerance=0)
            except Mismatch:
                differs[offset] += 1
    assert differs[0.5] > 0
    assert differs[OFFSET] == 0


@few
@given(seeds, st.integers(1, 11))
def test_step_wise_is_layer_wise(seed: int, chunk: int) -> None:
    """Law 5: advancing the network step by step, or every layer over all steps, gives identical spikes."""
    x = images(seed)
    snn = qffs.to_spiking(calibrated(network(seed), x), 3)
    whole, parts = (spikes_of(snn, x, steps=11, chunk=size) for size in (None, chunk))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[path], parts[path]) for path in whole)
    # Spikes are equal; the read-out's products of other sizes are summed in another order.
    torch.testing.assert_close(snn.run(x, steps=11, chunk=1)[0], snn(x, steps=11), rtol=1e-12, atol=1e-12)


@few
@given(seeds, st.sampled_from([2, 4]))
def test_both_conventions_of_the_schedule(seed: int, steps: int) -> None:
    """Law 4: the full input and biases every step with thresholds D s give the spikes of x / D with thresholds s."""
    qann, x = dyadic(seed)
    normalized = qffs.to_spiking(qann, steps)
    paper = qffs.to_spiking(qann, steps)
    for _, neuron in paper.neurons():
        neuron.threshold *= steps
    object.__setattr__(paper.schedule, "weights", (1.0,) * steps)
    ours, theirs = spikes_of(normalized, x, steps=9), spikes_of(paper, x, steps=9)
    assert all(torch.equal(ours[path], theirs[path]) for path in ours)
    assert torch.equal(paper(x, steps=9), steps * normalized(x, steps=9))


@few
@given(seeds)
def test_max_pooling_sends_single_spikes(seed: int) -> None:
    """Law 3 in a network: what a pooling layer passes on is -θ, 0 or θ."""
    x = images(seed)
    qann = calibrated(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 1, 1)).double(), x)
    snn = qffs.to_spiking(qann)
    total = snn(x, steps=8, backend="reference")
    increments = total.diff(dim=0, prepend=torch.zeros_like(total[:1])) / qann.get_submodule("1").step_size
    assert torch.equal(increments.round().abs().clamp(max=1), increments.round().abs())
    torch.testing.assert_close(total[-1], qann(x).detach(), rtol=1e-12, atol=1e-12)


def test_the_readout_accumulates() -> None:
    """Before it has settled, too, the read-out of an analog output is W Σ spikes + the charged part of the bias."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    qann = calibrated(model, x)
    snn = qffs.to_spiking(qann, (0.5, 0.25, 0.25))
    (spikes,) = spikes_of(snn, x, steps=5).values()
    sent = spikes.cumsum(0) * qann.get_submodule("1").step_size.detach()
    charged = torch.tensor([0.5, 0.75, 1, 1, 1], dtype=torch.float64).view(-1, 1, 1)
    expected = sent @ model[2].weight.T + charged * model[2].bias
    torch.testing.assert_close(snn(x, steps=5, backend="reference"), expected.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 3])
def test_a_spiking_output_layer(bits: int) -> None:
    """Its own bits and threshold; what is read out is a whole number of thresholds."""
    x = images(count=16)
    qann = calibrated(network(), x, bits=2, output=bits)
    snn = qffs.to_spiking(qann)
    qffs.verify(qann, snn, x, tie_tolerance=0)
    (*_, (path, neuron)) = snn.neurons()
    assert neuron.highest == 2**bits - 1
    assert path == "output_quantizer"
    counts = snn(x, steps=20, backend="reference") / neuron.threshold
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    assert snn.schedule.steps == 3  # of the hidden layers


def test_the_schedule_follows_the_hidden_bits() -> None:
    x = images()
    assert qffs.to_spiking(calibrated(network(), x, bits=3)).schedule.steps == 7
    assert qffs.to_spiking(calibrated(network(), x, bits=1, output=4)).schedule.steps == 1
    assert qffs.to_spiking(calibrated(network(), x), 5).schedule.steps == 5
    mixed = calibrated(network(), x)
    mixed.get_submodule("relu_2").highest = 5  # any levels: the schedule is that of the finest hidden layer
    snn = qffs.to_spiking(mixed)
    assert snn.schedule.steps == 5
    qffs.verify(mixed, snn, x, tie_tolerance=0)


def test_input_and_biases_are_off_after_the_charge() -> None:
    """A network of biases alone settles, and stays as it is for as long as it runs."""
    x = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    qann = calibrated(network(), images())
    readout = qffs.to_spiking(qann)(x, steps=60)
    assert torch.equal(readout[30], readout[-1])
    torch.testing.assert_close(readout[-1], qann(x).detach(), rtol=1e-9, atol=1e-9)


def test_images_do_not_see_each_other() -> None:
    x = images(count=5)
    snn = qffs.to_spiking(calibrated(network(), x))
    alone = torch.cat([snn(one, steps=7, backend="reference") for one in x.split(1)], dim=1)
    torch.testing.assert_close(alone, snn(x, steps=7, backend="reference"), rtol=1e-12, atol=1e-12)


def test_no_state_is_kept_between_calls() -> None:
    x = images()
    snn = qffs.to_spiking(calibrated(network(), x))
    before = {name: tensor.clone() for name, tensor in snn.state_dict().items()}
    first = snn(x, steps=6, backend="reference")
    snn(images(seed=9, count=2), steps=9, backend="reference")
    assert torch.equal(snn(x, steps=6, backend="reference"), first)
    assert all(torch.equal(before[name], tensor) for name, tensor in snn.state_dict().items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))])
def test_copies_run(copied: Any) -> None:
    x = images()
    snn = qffs.to_spiking(calibrated(network(), x))
    assert torch.equal(copied(snn)(x, steps=6, backend="reference"), snn(x, steps=6, backend="reference"))


def test_the_input_current_is_computed_once() -> None:
    """What lies before the first neuron runs once, whatever T and however the steps are cut."""
    x = images()
    snn = qffs.to_spiking(calibrated(network(), x))
    calls: list[tuple[int, ...]] = []
    snn.graph.stem.register_forward_hook(lambda module, arguments, result: calls.append(tuple(result.shape)))
    snn.run(x, steps=16, chunk=1)
    assert calls == [(4, 6, 8, 8)]
    pooled = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.ReLU()).double()
    snn = qffs.to_spiking(calibrated(pooled, x))
    snn.graph.get_submodule("1").register_forward_hook(lambda module, given, result: calls.append(tuple(result.shape)))
    snn.run(x, steps=16, chunk=1)
    assert calls[1:] == [(4, 3, 2, 2)]


def test_negative_spikes_are_what_makes_it_exact() -> None:
    """Without them a deep network never arrives: the occasional noise of the paper, section 4.3."""
    x = images(count=32)
    qann = calibrated(network(blocks=6), x)
    unsigned = qffs.to_spiking(qann, rule=FiringRule(negative_spikes=False))
    expected = qann(x).detach()
    assert (unsigned(x, steps=200)[-1] - expected).abs().max() > 0.1
    assert (qffs.to_spiking(qann)(x, steps=200)[-1] - expected).abs().max() < 1e-9


class TwoInputs(nn.Module):
    """Several inputs and outputs, one output a sum of both, one a joined map, nested in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4, bias=False), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        a, b = torch.relu(self.left(left)), self.right(right)
        joined = torch.cat([a, b], dim=1)  # spikes beside a constant current
        return {"sum": a - b, "pair": (self.head(joined), 1.0 - a)}


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_several_inputs_and_outputs(chunk: int | None) -> None:
    model = randomize(TwoInputs(), 0).double()
    inputs = (torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
    qann = qffs.quantize(model, example=inputs)
    qffs.calibrate(qann, [inputs], "lsq")
    snn = qffs.to_spiking(qann.eval())
    qffs.verify(qann, snn, *inputs, tie_tolerance=0)
    expected, (readout, _) = qann(*inputs), snn.run(*inputs, steps=9, chunk=chunk)
    assert readout.keys() == expected.keys()
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    close(readout["sum"][-1], expected["sum"].detach())
    for ours, theirs in zip(readout["pair"], expected["pair"], strict=True):
        close(ours[-1], theirs.detach())


def test_autocast_around_a_simulation_changes_nothing() -> None:
    x = images()
    qann = calibrated(network(), x)
    snn = qffs.to_spiking(qann)
    expected = snn(x, steps=8), snn.run(x, steps=8)[0], snn.stream().run(x, stop_when=1.0, longest=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(snn(x, steps=8), expected[0])
        assert torch.equal(snn.run(x, steps=8)[0], expected[1])
        assert torch.equal(snn.stream().run(x, stop_when=1.0, longest=8).readout, expected[2].readout)
        qffs.verify(qann, snn, x)


def test_too_few_steps() -> None:
    x = images()
    with pytest.raises(InvalidArgument, match="at least as many steps as the 3 charge steps"):
        qffs.to_spiking(calibrated(network(), x))(x, steps=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_input_that_is_not_finite(bad: float) -> None:
    x = images()
    snn = qffs.to_spiking(calibrated(network(), x))
    x[1, 0, 3, 3] = bad
    with pytest.raises(Diverged, match="NaN or infinity"):
        snn(x, steps=8, backend="reference")


class Corner(nn.Module):
    """A convolution, a second one, a parameter, and a forward given as a function of them and the input."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.p = nn.Parameter(torch.zeros(1, 4, 8, 8))
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x, torch.relu)


def attend(y: Tensor) -> Tensor:
    return torch.softmax(y @ y.transpose(-1, -2), -1) @ y


def twice(y: Tensor) -> Any:
    return y, {"again": y}


CORNERS = {
    "join a parameter": lambda s, x, R: s.b(torch.cat([R(s.a(x)), s.p.expand(x.shape[0], -1, -1, -1)], 2)).mean((2, 3)),
    "neuron after such a join": lambda s, x, R: R(torch.cat([R(s.a(x)), s.p.expand(x.shape[0], -1, -1, -1)], 1)),
    "broadcast pooled spikes": lambda s, x, R: (F.adaptive_avg_pool2d(R(s.a(x)), 1) + s.a(x)).sum((2, 3)),
    "broadcast over a parameter": lambda s, x, R: s.b(F.adaptive_avg_pool2d(R(s.a(x)), 1) + s.p),
    "flatten a broadcast sum": lambda s, x, R: R(F.adaptive_avg_pool2d(R(s.a(x)), 1) + s.p).flatten(1),
    "numbers on both sides": lambda s, x, R: R(0.1 - R(s.a(x) + 0.1)) - 0.3,
    "a product of two signals": lambda s, x, R: s.b(
        R(s.a(x)) * torch.sigmoid(s.b(R(s.a(x))).mean((2, 3), keepdim=True))
    ),
    "attention": lambda s, x, R: attend(R(s.a(x)).flatten(2)),
    "a smooth activation": lambda s, x, R: R(s.b(F.gelu(s.a(x)))) + F.silu(s.b(R(s.a(x)))),
    "layer norm": lambda s, x, R: R(F.layer_norm(s.b(R(s.a(x))), (8, 8)) + s.p),
    "a number by name": lambda s, x, R: torch.sub(R(s.a(x)), other=0.5, alpha=2),
    "a bias read twice": lambda s, x, R: R(s.a(x)) + s.a.bias.view(1, -1, 1, 1),
    "a method of a parameter": lambda s, x, R: s.p.add(R(s.a(x))),
    "parameter times signal": lambda s, x, R: R(s.a(x)) * s.p - s.p,
    "pooling before any neuron": lambda s, x, R: R(s.b(F.max_pool2d(s.a(x), 3, 2, 1))),
    "pooling a sum": lambda s, x, R: F.max_pool2d(R(s.a(x)) + s.p, 2),
    "the batch size read at the start": lambda s, x, R: R(s.a(x)).view(x.size(0), 4, -1).mean(2),
    "pieces": lambda s, x, R: torch.stack([R(s.a(x)).chunk(2, 1)[i] * 2 for i in (1, 0)], 1) + s.p.sum(),
    "spikes beside the input": lambda s, x, R: s.b(torch.cat([R(s.a(x))[:, :2], x], 1)),
    "the same node twice": lambda s, x, R: twice(R(s.a(x))),
    "padding as wide as the map": lambda s, x, R: F.max_pool2d(
        F.pad(R(s.a(x)), [x.shape[-1] // 4, x.shape[-1] % 3] * 2, value=-math.inf), 3, 2
    ),
    "a bias made of a size": lambda s, x, R: R(F.linear(R(s.a(x)), s.p[0, :, 0], s.p[0, :, 0, 0] / x.shape[1])),
    "an output that is none": lambda s, x, R: (R(s.a(x)), None),
    "a mask on the output": lambda s, x, R: s.b(R(s.a(x))).masked_fill(s.p > 0, -math.inf),
    "relu of the input": lambda s, x, R: R(s.b(R(s.a(R(x))))) + s.b(s.a(x)),
}


@pytest.mark.parametrize("charge", [3, (0.0, 1.0)])
@pytest.mark.parametrize("name", CORNERS)
def test_corners(name: str, charge: Any) -> None:
    """Exact, outputs included, and the same step by step."""
    model = randomize(Corner(CORNERS[name]), 3).double()
    model.p.data.normal_(generator=torch.Generator().manual_seed(0))
    x = images(count=3)
    qann = calibrated(model, x)
    snn = qffs.to_spiking(qann, charge)
    assert qffs.verify(qann, snn, x, tie_tolerance=0).deviation < 1e-12
    whole, parts = spikes_of(snn, x, steps=9), spikes_of(snn, x, steps=9, chunk=2)
    assert all(torch.equal(whole[path], parts[path]) for path in whole)


def test_the_type_of_the_first_input_does_not_matter() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, index: Tensor, x: Tensor) -> Tensor:
            return torch.relu(self.linear(x)) * 0.5

    inputs = (torch.arange(5), torch.randn(5, 3, dtype=torch.float64))
    qann = qffs.calibrate(qffs.quantize(Mixed().double(), example=inputs), [inputs], "lsq").eval()
    assert qffs.verify(qann, qffs.to_spiking(qann), *inputs, tie_tolerance=0).deviation < 1e-12


@pytest.mark.parametrize("chunk", [0, -1, 1.5])
def test_impossible_chunks(chunk: Any) -> None:
    x = images()
    with pytest.raises(InvalidArgument, match="chunk"):
        qffs.to_spiking(calibrated(network(), x)).run(x, steps=8, chunk=chunk)


def test_inputs_that_do_not_fit() -> None:
    x = images()
    snn = qffs.to_spiking(calibrated(network(), x))
    for inputs in ((), (x, x), (None,)):
        with pytest.raises(InvalidArgument, match="takes 1 tensors"):
            snn(*inputs, steps=8, backend="reference")
    with pytest.raises(InvalidArgument, match="by name, as in steps=8"):
        snn(x, 8)  # type: ignore[arg-type]


class Frames(nn.Module):
    """Reads the frames of a video as images of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x.flatten(0, 1))).mean((2, 3))
        return self.head(y.view(x.shape[0], -1, 4).mean(1))


def test_an_image_cut_into_another_number_of_rows_is_refused() -> None:
    x = torch.randn(2, 4, 2, 6, 6, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(Frames().double(), example=x), [x], "lsq").eval()
    snn = qffs.to_spiking(qann)
    assert qffs.verify(qann, snn, torch.cat([x, x]), tie_tolerance=0).deviation < 1e-12
    with pytest.raises(InvalidArgument, match=r"at flatten.*of \(4, 2, 6, 6\) have, not of \(2, 2, 6, 6\)"):
        snn(x[:, :2], steps=8, backend="reference")


class Head(nn.Module):
    """Ends as binary classifiers do, and shapes as code does that knows its tensors to be contiguous."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(2, 4, 3), nn.Linear(4, 6), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.conv(x).mean((2, 3), keepdim=True).squeeze()).view(x.shape[0] * 2, 3)
        return self.second(torch.relu(y.relu().view(x.shape[0], -1) - 0.1)).squeeze()


@pytest.mark.parametrize("classes", [1, 3])
def test_shapes_of_parts_are_those_of_the_whole(classes: int) -> None:
    torch.manual_seed(classes)
    x = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(Head(classes).double(), example=x), [x], "lsq").eval()
    snn = qffs.to_spiking(qann)
    assert qffs.verify(qann, snn, x, tie_tolerance=0).deviation < 1e-12
    assert snn(x, steps=5, backend="reference").shape == (5, *qann(x).shape)
    assert snn(x[:1], steps=5, backend="reference").shape[:2] == (5, 1)


@pytest.fixture(scope="module")
def settling() -> tuple[nn.Module, SpikingNetwork, Tensor]:
    x = images(seed=3)
    qann = calibrated(network(3, blocks=2), x, 2)
    return qann, qffs.to_spiking(qann), x


def test_without_steps_it_runs_until_the_network_has_settled(settling: Any) -> None:
    qann, snn, x = settling
    readout, fired = snn(x), list[bool]()
    snn.run(x, steps=len(readout) + 8, chunk=1, observer=lambda _, spikes, __: fired.append(bool(spikes.any())))
    layers = len(list(snn.neurons()))
    by_step = [any(fired[t * layers : (t + 1) * layers]) for t in range(len(readout) + 8)]
    assert by_step[len(readout) - 1]
    assert not any(by_step[len(readout) :])
    torch.testing.assert_close(readout, snn(x, steps=len(readout)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(readout[-1], qann(x).detach(), rtol=1e-9, atol=1e-9)
    totals: list[list[int]] = [[], []]
    snn(x, counter=lambda _, spikes: totals[0].append(int(spikes.sum())))
    snn(x, steps=len(readout), counter=lambda _, spikes: totals[1].append(int(spikes.sum())))
    assert totals[0] == totals[1]
    assert sum(totals[0]) > 0


def test_a_network_that_takes_long_to_settle_runs_as_long_as_it_takes(settling: Any) -> None:
    _, snn, x = settling
    slow = qffs.SpikingNetwork(copy.deepcopy(snn).graph, Schedule.uniform(41))
    assert len(slow(x)) >= 41
    torch.testing.assert_close(slow(x)[-1], snn(x)[-1], rtol=1e-9, atol=1e-9)


def test_gradients_are_refused_in_a_sentence(settling: Any) -> None:
    _, snn, x = settling
    with pytest.raises(InvalidArgument, match="a spiking network has no gradients: train the quantized network"):
        snn(x.clone().requires_grad_(), steps=8)
    copied = copy.deepcopy(snn).requires_grad_()
    copied.register_parameter("scale", nn.Parameter(torch.ones(())))
    with pytest.raises(InvalidArgument, match="a spiking network has no gradients"):
        copied(x, steps=8)
    with torch.no_grad():
        assert torch.equal(copied(x, steps=8), snn(x, steps=8))
