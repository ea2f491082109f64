"""Each method's own law: its threshold rule on a network computed by hand, its limit, what it says of neurons."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import qffs
from helpers.untrained import images, network, trained
from qffs.errors import InvalidArgument
from qffs.functional import neuron as fire
from qffs.spiking.backends import BACKENDS
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import advance
from qffs.studies.methods import METHODS, placed, quantized, rates, started
from qffs.studies.methods.method import RATE, some
from qffs.studies.methods.qcfs import LEVELS, ClipFloorShift
from qffs.studies.methods.rnl import SECOND, RateNorm, inferred
from qffs.studies.methods.snn_calibration import Shifted, best
from qffs.studies.methods.spike_norm import BALANCED_STEPS, HARD, balanced
from qffs.studies.methods.srp_cos import STEPS_BEFORE
from qffs.studies.methods.tcl import Clip
from qffs.train.reconstruct import reconstruct

RATES = ("rmp", "tcl", "ts")


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", RATES)
def test_rates_become_the_activations(name: str) -> None:
    method, x = METHODS[name], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
    errors = [apart(method.spiking(made, [x], T)(x, steps=T)[-1], wanted) for T in (16, 128, 512)]
    assert errors[0] > 2 * errors[1] > 3 * errors[2]
    assert errors[2] < 0.02


def test_quantized_activations_are_reached_at_as_many_steps_as_levels() -> None:
    """And no closer later, for rates are not rounded; a first run lets SRP and COS be no farther away."""
    method, x = METHODS["qcfs"], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
    errors = {T: apart(method.spiking(made, [x], T)(x, steps=T)[-1], wanted) for T in (1, LEVELS, 255)}
    assert errors[LEVELS] < errors[255] < errors[1]
    for name in ("srp", "cos"):
        ready = METHODS[name].spiking(made, [x], LEVELS)
        assert apart(ready(x, steps=LEVELS)[-1], wanted) < errors[255]


def test_rnl_clips_at_a_running_maximum() -> None:
    norm = RateNorm()
    norm.largest.fill_(2.0)
    x = torch.tensor([-1.0, 1.0, 4.0], requires_grad=True)
    v = 2 / (1 + math.exp(-10))
    torch.testing.assert_close(norm(x), torch.tensor([0.0, 1.0, v]))
    assert float(norm.largest) == pytest.approx(0.9 * 2 + 0.1 * 4)
    norm.eval()(x).sum().backward()
    assert float(norm.largest) == pytest.approx(2.2)
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    assert not norm.p.requires_grad


def test_ril_trains_one_share_of_all_thresholds_alone() -> None:
    method, x = METHODS["rnl"], images()
    made = trained(method, network(), x)
    before = {name: each.clone() for name, each in made.state_dict().items()}
    found = inferred(made, [x])
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())
    shares = {float(module.p.sigmoid()) for module in found.modules() if isinstance(module, RateNorm)}
    assert len(shares) == 1
    assert shares.pop() < 1 / (1 + math.exp(-SECOND)) - 0.05  # nearer to 0 and 1
    for name, each in found.state_dict().items():
        assert name.endswith(".p") or torch.equal(each, before[name])
    with torch.no_grad():
        errors = [apart(method.spiking(found, [x], T)(x, steps=T)[-1], found(x)) for T in (16, 512)]
    assert method.activation.finish is inferred
    assert errors[0] > 5 * errors[1]
    assert errors[1] < 0.02


def test_spike_norm_stays_behind() -> None:
    """A spike that sets the potential to zero loses what was above the threshold, for ever."""
    method, x = METHODS["spike-norm"], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
    soft = apart(rates(made, balanced(made, [x], RATE), 512)(x, steps=512)[-1], wanted)
    hard = apart(method.spiking(made, [x], 512)(x, steps=512)[-1], wanted)
    assert soft < 0.02
    assert hard > 0.05


def test_thresholds_are_the_largest_currents_by_hand() -> None:
    """Two neurons with weights 2 and 1 in a row, inputs 1 and 3: 6 arrives at once, then 1 times a spike of 6."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for layer, weight in ((model[0], 2.0), (model[2], 1.0), (model[4], 1.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.zeros_(layer.bias)
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    for rule in (RATE, HARD):
        found = balanced(placed(model, x, METHODS["rmp"].activation), [x], rule)
        assert found == pytest.approx({"1": 6.0, "3": 6.0})
    assert BALANCED_STEPS > 1
    for name, share in (("rmp", 0.8), ("spike-norm", 1.0)):
        snn = METHODS[name].spiking(placed(model, x, METHODS[name].activation), [x], 4)
        assert [float(neuron.threshold) * 4 for _, neuron in snn.neurons()] == pytest.approx([6 * share, 6 * share])
        assert [neuron.rule.reset for _, neuron in snn.neurons()] == [
            "zero" if name == "spike-norm" else "subtract"
        ] * 2


def test_ts_takes_the_largest_activation_and_half_of_it_first() -> None:
    x = images()
    made = trained(METHODS["ts"], network(), x)
    with torch.no_grad():
        largest = float(torch.relu(made.get_submodule("0")(x)).max())
    snn = METHODS["ts"].spiking(made, [x], 32)
    _, neuron = next(snn.neurons())
    assert float(neuron.threshold) * 32 == pytest.approx(largest)
    assert neuron.rule == replace(RATE, precharge=0.5)


def test_tcl_gives_all_of_the_gradient_to_the_clip_where_it_cuts() -> None:
    clip = Clip(1.0)
    x = torch.tensor([-1.0, 0.5, 2.0, 3.0], requires_grad=True)
    clip(x).sum().backward()
    assert clip.height.grad is not None
    assert float(clip.height.grad) == 2.0
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0, 0.0]
    penalty = METHODS["tcl"].activation.penalty
    assert penalty is not None
    assert penalty([clip, Clip(2.0)]).item() == pytest.approx(5e-4 / 2 * 5)


def test_qcfs_is_exact_at_as_many_steps_as_levels_in_one_layer() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for layer in (model[0], model[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.linspace(-1.013, 3.017, 301, dtype=torch.float64)[:, None]  # none of them on a tie
    made = trained(METHODS["qcfs"], model, x)
    with torch.no_grad():
        wanted = made(x)
    found = METHODS["qcfs"].spiking(made, [x], LEVELS)(x, steps=LEVELS)[-1]
    torch.testing.assert_close(found, wanted)
    assert len(wanted.unique()) == LEVELS + 1


def test_qcfs_passes_the_gradient_through_the_floor() -> None:
    layer = ClipFloorShift(4, 2.0)
    x = torch.tensor([-1.0, 0.3, 5.0], requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    assert layer.height.grad is not None
    assert float(layer.height.grad) == pytest.approx((0.25 - 0.3 / 2) + 1.0)


def test_srp_and_cos_begin_where_a_first_run_ended() -> None:
    x = images()
    made = trained(METHODS["qcfs"], network(), x)
    for name in ("srp", "cos"):
        snn = METHODS[name].spiking(made, [x], 8)
        assert METHODS[name].before == STEPS_BEFORE
        first = METHODS["qcfs"].spiking(made, [x], STEPS_BEFORE)
        _, after = first.run(x, steps=STEPS_BEFORE)
        state = snn.initial_state(x)
        for (path, neuron), (_, before) in zip(snn.neurons(), first.neurons(), strict=True):
            residual = after.neurons[path].potential / before.threshold
            raised = state.neurons[path].potential / neuron.threshold - 0.5
            if name == "srp":
                assert torch.equal(raised < -1, residual <= 0)
                assert bool((residual <= 0).any())
            else:
                taken = (residual < 0) & (after.neurons[path].sent > 0)
                torch.testing.assert_close(raised, (residual >= 1).double() - taken.double())


def test_spikes_of_a_first_run_count() -> None:
    x = images()
    made = trained(METHODS["qcfs"], network(), x)
    before: dict[str, Tensor] = {}
    METHODS["qcfs"].spiking(made, [x], STEPS_BEFORE)(x, steps=STEPS_BEFORE, counter=before.__setitem__)
    cos, own = METHODS["cos"].spiking(made, [x], 8), dict[str, Tensor]()
    advance(cos.operations, cos.initial_state(x), cos.schedule.weights, lambda path, sent, _: own.update({path: sent}))
    for backend in BACKENDS:
        told: list[tuple[str, Tensor]] = []
        readout = cos(x, steps=8, backend=backend, counter=lambda *each, told=told: told.append(each))
        torch.testing.assert_close(readout, cos(x, steps=8, backend="reference"))
        for path, first in before.items():
            counted, each = sum(sent for layer, sent in told if layer == path)[0], own[path].flatten(1).sum(1).long()
            assert int(first[0].sum()) > 0
            assert counted.tolist() == [int(first[0].sum()) + int(each[0]), *each[1:].tolist()]


@pytest.mark.parametrize("name", ["srp", "cos", "calibration"])
def test_first_potentials_are_the_same_by_every_back_end(name: str) -> None:
    method, x = METHODS[name], images()
    snn = method.spiking(trained(method, network(), x), [x], 8)
    plain = SpikingNetwork(snn.graph, snn.schedule)
    for leak in (1.0, 0.75):
        for _, neuron in snn.neurons():
            neuron.rule = replace(neuron.rule, decay=leak)
        for backend in BACKENDS:
            torch.testing.assert_close(snn(x, steps=8, backend=backend), snn(x, steps=8, backend="reference"))
        if name == "calibration":  # the others move few neurons, or such as would not fire
            assert not torch.allclose(snn(x, steps=8, backend="reference"), plain(x, steps=8, backend="reference"))
    with pytest.raises(InvalidArgument, match="is run in its own precision, not 'exact'"):
        snn.float()(x.float(), steps=8, precision="exact")


def test_fewer_large_images_find_thresholds() -> None:
    assert [len(some([torch.zeros(100, 3, size, size)], 64)) for size in (8, 32, 224, 1000)] == [64, 42, 1, 1]


def test_a_clipped_relu_stays_clipped() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU6(), nn.Linear(3, 2)).double()
    x = 40 * torch.randn(50, 2).double()
    with torch.no_grad():
        for name in ("rmp", "tcl", "ts", "rnl", "qcfs"):
            activation = METHODS[name].activation
            made = started(placed(model, x, activation), activation, x).eval()
            clips = [float(made.get_submodule("1")(torch.tensor([100.0], dtype=torch.float64)))]
            assert max(clips) <= 6.001


def test_calibration_takes_the_best_thresholds_and_closes_gaps() -> None:
    x = images()
    method = METHODS["calibration"]
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
        first = torch.relu(made.get_submodule("0")(x))
    errors = {T: apart(method.spiking(made, [x], T)(x, steps=T)[-1], wanted) for T in (4, 16, 128)}
    assert errors[4] > errors[16] > errors[128]
    assert errors[128] < 0.02
    snn = method.spiking(made, [x], 4)
    assert isinstance(snn.start, Shifted)
    _, neuron = next(snn.neurons())
    assert float(neuron.threshold) * 4 == pytest.approx(best(first, 4))
    assert best(first, 4) < float(first.max())
    sent: dict[str, Tensor] = {}
    snn.run(x, steps=4, observer=lambda path, spikes, _: sent.update({path: spikes.sum(0)}))
    plain: dict[str, Tensor] = {}
    SpikingNetwork(snn.graph, snn.schedule).run(
        x, steps=4, observer=lambda path, spikes, _: plain.update({path: spikes.sum(0)})
    )
    gaps = [float((first - each["1"] * neuron.threshold).mean((0, 2, 3)).abs().sum()) for each in (sent, plain)]
    assert gaps[0] < gaps[1]  # by channel, of the first layer


def test_several_spikes_at_once_are_exact_in_one_step() -> None:
    method, x = METHODS["multi-level"], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        wanted = made(x)
    readout = method.spiking(made, [x], 1)(x, steps=3)
    for step in range(3):
        torch.testing.assert_close(readout[step], wanted)


@pytest.mark.parametrize("name", ["qffs", "spikezip"])
def test_what_this_library_trained_is_reached_exactly(name: str) -> None:
    method, x = METHODS[name], images()
    made = trained(method, network(), x)
    with torch.no_grad():
        torch.testing.assert_close(method.spiking(made, [x], 8)(x, steps=16)[-1], made(x))


def test_reconstruction_is_nearer_to_the_network_than_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "reconstruct", partial(reconstruct, steps=60, block_steps=30))
    method, x = METHODS["qffs-reconstructed"], images()
    assert method.activation.training == {"epochs": 0}
    model = network().eval()
    start = started(placed(model, x, method.activation), method.activation, x)
    assert method.activation.finish is not None
    with torch.no_grad():
        wanted = model(x)
        before = apart(start.eval()(x), wanted)
        made = method.activation.finish(start, [x])
        assert apart(made.eval()(x), wanted) < 0.8 * before
        torch.testing.assert_close(method.spiking(made, [x], 8)(x, steps=16)[-1], made(x))


def test_rates_are_the_same_in_other_units() -> None:
    """A T-th of everything at each step: read out at t it is what a run of t steps gives, t / T times."""
    x = images()
    made = trained(METHODS["tcl"], network(), x)
    long, short = (METHODS["tcl"].spiking(made, [x], T)(x, steps=T) for T in (64, 8))
    torch.testing.assert_close(long[7] * 64 / 8, short[7])


def test_a_spike_sets_the_potential_to_zero() -> None:
    rule = qffs.FiringRule(negative_spikes=False, cap=False, precharge=0.0, reset="zero")
    θ = torch.tensor(1.0)
    state = fire.rest(torch.zeros(2), θ, 0.0)
    spikes, state = fire.step(state, torch.tensor([2.5, 0.5]), θ, 3, rule)
    assert spikes.tolist() == [1.0, 0.0]
    assert state.potential.tolist() == [0.0, 0.5]
    with pytest.raises(InvalidArgument, match="can be neither negative nor one of several"):
        qffs.FiringRule(reset="zero")


def test_every_method_says_what_it_is() -> None:
    for name, method in METHODS.items():
        assert name == method.name
        assert len(method.says) < 110
        assert "20" in method.source  # a year
