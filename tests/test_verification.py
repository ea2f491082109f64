"""Ordinary networks convert, exactly."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from helpers.networks import NETWORKS
from helpers.slow import slow_but
from qffs.errors import InvalidArgument, Mismatch, NotConvertible
from qffs.functional.neuron import NeuronState
from qffs.graph.nested import tensors
from qffs.models import libraries
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork

every_network = pytest.mark.parametrize("name", NETWORKS)
SOME = ("lenet", "functional", "se_resnet", "frames", "textcnn", "mlp", "two_inputs", "many_outputs", "pointnet", "vit")
some_quickly = pytest.mark.parametrize("name", slow_but(NETWORKS, *SOME))
"""Every network, few of them in the quick tests: for what takes seconds for each."""


@cache
def quantized(name: str) -> fx.GraphModule:
    """The calibrated quantized network."""
    inputs = NETWORKS[name].inputs()
    qann = qffs.quantize(NETWORKS[name].model(), example=inputs)
    return qffs.calibrate(qann, [inputs], "lsq").eval()


@cache
def spiking(name: str) -> SpikingNetwork:
    return qffs.to_spiking(quantized(name))


def run(name: str, steps: int, chunk: int | None) -> tuple[Any, dict[str, Tensor]]:
    """The read-out of every output after each step, and the spikes [T, B, ...] of every layer."""
    seen: dict[str, list[Tensor]] = {}

    def observe(path: str, spikes: Tensor, state: NeuronState) -> None:
        seen.setdefault(path, []).append(spikes)

    readout, _ = spiking(name).run(*NETWORKS[name].inputs(), steps=steps, chunk=chunk, observer=observe)
    return readout, {path: torch.cat(parts) for path, parts in seen.items()}


@every_network
def test_counts_are_levels(name: str) -> None:
    """Every layer's counts are the quantized network's levels, and the outputs are equal in float64."""
    inputs = NETWORKS[name].inputs()
    compared = qffs.verify(quantized(name), spiking(name), *inputs, tie_tolerance=0)
    with torch.no_grad():
        expected = quantized(name)(*inputs)
    readout, spikes = run(name, compared.steps, None)
    assert len(compared.layers) == len(spikes) > 0
    assert all(bool(fired.any()) for fired in spikes.values()), "a layer that never fires shows nothing"
    torch.testing.assert_close([total[-1] for total in tensors(readout)], tensors(expected), rtol=1e-9, atol=1e-9)


@every_network
def test_step_by_step(name: str) -> None:
    """All steps of one layer before the next, or all layers of one step: the same spikes and read-outs."""
    whole, spikes = run(name, 8, None)
    parts, by_step = run(name, 8, 1)
    assert spikes.keys() == by_step.keys()
    assert all(torch.equal(spikes[path], by_step[path]) for path in spikes)
    torch.testing.assert_close(tensors(parts), tensors(whole), rtol=1e-9, atol=1e-9)


@every_network
def test_state_dict_keys(name: str) -> None:
    """The quantized network has the model's keys, and one step size a quantizer."""
    keys = set(quantized(name).state_dict())
    steps = {f"{path}.step_size" for path, each in quantized(name).named_modules() if isinstance(each, Quantizer)}
    assert steps <= keys
    assert keys - steps == set(NETWORKS[name].model().state_dict())


@every_network
def test_strict(name: str) -> None:
    """Strictly, a network that sends nothing but spikes converts, and another is refused for the values it sends."""
    model, inputs = NETWORKS[name].model(), NETWORKS[name].inputs()
    if NETWORKS[name].spiking:
        qffs.quantize(model, example=inputs, strict=True)
        return
    with pytest.raises(NotConvertible, match="sends values, not single spikes") as refusal:
        qffs.quantize(model, example=inputs, strict=True)
    assert "no rule" not in str(refusal.value)


# Ties


def _at_ties() -> tuple[fx.GraphModule, SpikingNetwork, Tensor]:
    """A network in which the first layer of an image ends at ties, but for rounding."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200, bias=False), nn.ReLU(), nn.Linear(200, 50), nn.ReLU(), nn.Linear(50, 3))
    x = torch.randn(64, 6)
    qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x, offset=0.5), [x], "lsq").eval()
    weight, step = qann.get_submodule("0").weight.detach(), qann.get_submodule("1").step_size.item()
    weight *= ((torch.arange(200) % 3 + 0.5) * step / (weight @ x[0]))[:, None]
    return qann, qffs.to_spiking(qann, 7), x


def test_units_at_a_tie_are_counted_and_later_layers_follow_them() -> None:
    qann, snn, x = _at_ties()
    compared = qffs.verify(qann, snn, x)
    assert compared.ties > 0
    assert f"but for {compared.ties} at a tie, which rounding decides" in str(compared)
    with pytest.raises(Mismatch, match=r"differs is 1: .* by 1 at most; to rule out rounding, compare qann\.double"):
        qffs.verify(qann, snn, x, tie_tolerance=0)


def test_a_real_difference_beside_ties_raises() -> None:
    qann, snn, x = _at_ties()
    snn.graph.get_submodule("3").threshold *= 1.1
    with pytest.raises(Mismatch, match=r"differs is 3: .* on \d+ of 3200 units, by 1 at most"):
        qffs.verify(qann, snn, x)
    qann, snn, x = _at_ties()
    snn.graph.get_submodule("4").weight.mul_(1.001)
    with pytest.raises(Mismatch, match="the output differs by"):
        qffs.verify(qann, snn, x)
    qann, snn, x = _at_ties()
    snn.graph.get_submodule("1").threshold *= 1.01
    with pytest.raises(Mismatch, match="differs is 1"):
        qffs.verify(qann, snn, x)


def test_a_large_activation_of_another_image_hides_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(20, 6)
    qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x], "lsq").eval()
    snn = qffs.to_spiking(qann)
    snn.graph.get_submodule("0").weight.mul_(1.1)
    for factor in (1.0, 1e6):
        x[0] *= factor
        with pytest.raises(Mismatch, match="differs is 1"):
            qffs.verify(qann, snn, x)
    with pytest.raises(Mismatch, match="differs is 1"):
        qffs.verify(qann, snn, x[1:], tie_tolerance=1e9)  # even where rounding could explain any difference


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "16", None, True])
def test_the_tolerance_is_a_number(tolerance: Any) -> None:
    with pytest.raises(InvalidArgument, match="tie_tolerance must be a number of at least 0"):
        qffs.verify(quantized("mlp"), spiking("mlp"), *NETWORKS["mlp"].inputs(), tie_tolerance=tolerance)


def test_the_number_of_inputs_is_named() -> None:
    x = NETWORKS["mlp"].inputs()[0]
    with pytest.raises(InvalidArgument, match="takes 1 tensors with a batch"):
        qffs.verify(quantized("mlp"), spiking("mlp"), x, x)


def test_the_size_of_an_output_decides_what_is_rounding() -> None:
    """In small units a difference of any absolute size may be a fault."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False)).double()
    x = 1e-12 * torch.randn(20, 6, dtype=torch.float64)
    qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x], "lsq").eval()
    snn = qffs.to_spiking(qann)
    assert qffs.verify(qann, snn, x, tie_tolerance=0).deviation < 1e-25
    snn.graph.get_submodule("2").weight.mul_(1.001)
    with pytest.raises(Mismatch, match="the output differs by"):
        qffs.verify(qann, snn, x)


@pytest.mark.slow
def test_an_untrained_network_in_float32_has_at_most_a_few_ties() -> None:
    """Of three million units, rounding decides one otherwise."""
    torch.manual_seed(1)
    model, x = libraries.vision("torchvision.models").resnet18().eval(), torch.randn(16, 3, 64, 64)
    qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x], "lsq").eval()
    compared = qffs.verify(qann, qffs.to_spiking(qann), x)
    assert sum(units for _, units in compared.layers) > 3_000_000
    assert compared.ties <= 5


def test_an_output_in_a_higher_type_has_the_rounding_of_the_network() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).relu()).double()

    torch.manual_seed(0)
    x = torch.randn(200, 6)
    qann = qffs.calibrate(qffs.quantize(Cast(), bits=2, example=x), [x], "lsq").eval()
    assert 1e-9 < qffs.verify(qann, qffs.to_spiking(qann), x).deviation < 1e-5
