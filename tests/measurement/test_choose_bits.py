"""The choice of bits: each budget is met, the effects are those of one quantizer alone, and the order is the best."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from helpers.problems import images, network
from qffs.errors import InvalidArgument
from qffs.measurement.choose_bits import CANDIDATES, ChosenLevels, choose_bits
from qffs.nn.inspect import quantizers
from qffs.nn.quantizer import Quantizer


def batches() -> list[Tensor]:
    return [images(seed=seed, count=16) for seed in range(2)]


def chosen(**budget: Any) -> ChosenLevels:
    return choose_bits(network().eval(), batches(), progress=False, **budget)


def quantized(levels: Any) -> fx.GraphModule:
    qann = qffs.quantize(network().eval(), levels=levels, example=batches()[0])
    qffs.calibrate(qann, [torch.cat(batches())], "lsq")
    return qann.eval()


@pytest.mark.parametrize(
    "budget", [{"steps": 8}, {"steps": 20}, {"spikes": 700.0}, {"changed": 0.1}, {"error": 0.02}], ids=str
)
def test_a_budget_is_kept_by_the_network_that_has_the_levels(budget: dict[str, float]) -> None:
    choice = chosen(**budget)
    ((name, limit),) = budget.items()
    assert getattr(choice, name) <= limit
    qann, x = quantized(choice), torch.cat(batches())
    with torch.no_grad():
        target, output = network().eval()(x), qann(x)
    counted: list[int] = []
    readout = qffs.to_spiking(qann)(x, counter=lambda _, sent: counted.append(int(sent.sum())))
    assert choice.error == pytest.approx(float((output - target).square().sum() / target.square().sum()))
    assert choice.changed == float((output.argmax(1) != target.argmax(1)).double().mean())
    assert choice.steps == len(readout)
    assert choice.spikes == sum(counted) / len(x)


def test_more_budget_gives_more_levels() -> None:
    few, more = chosen(steps=6), chosen(steps=24)
    assert all(few[path] <= more[path] for path in few)
    assert sum(few.values()) < sum(more.values())
    assert chosen(error=0.1).error > chosen(error=0.01).error


def test_the_next_levels_would_not_fit() -> None:
    """The last choice within a budget of spikes: with one spike less in the budget, another one is chosen."""
    choice = chosen(spikes=700.0)
    assert chosen(spikes=choice.spikes).levels == choice.levels
    assert chosen(spikes=choice.spikes - 0.01).levels != choice.levels


def test_an_effect_is_that_of_one_quantizer_alone() -> None:
    choice, x = chosen(steps=8), torch.cat(batches())
    model = network().eval()
    for path in choice:
        levels = {path: 3, "*": "full"}
        qann = quantized(levels)
        quantizer = qann.get_submodule(path)
        assert isinstance(quantizer, Quantizer)
        seen: list[Tensor] = []
        quantizer.register_forward_hook(lambda module, given, _, seen=seen: seen.append(module.level(given[0]).sum()))
        with torch.no_grad():
            output, target = qann(x), model(x)
        effect = choice.effects[path]
        assert effect.errors[3] == pytest.approx(float((output - target).square().sum() / target.square().sum()))
        assert effect.spikes[3] == pytest.approx(float(sum(seen)) / len(x))


def test_of_equal_layers_the_one_that_matters_gets_more_levels() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x[:, :8]) + 0.01 * torch.relu(x[:, 8:])

    x = torch.randn(64, 16, dtype=torch.float64)
    choice = choose_bits(Two(), [x], error=0.02, progress=False)
    first, second = choice.values()
    assert first > second


def test_a_quantized_network_keeps_its_output_levels_and_is_not_changed() -> None:
    qann = qffs.quantize(network().eval(), 2, 4, example=batches()[0])
    qffs.calibrate(qann, batches(), "lsq")
    before = {key: value.clone() for key, value in qann.state_dict().items()}
    choice = choose_bits(qann, batches(), steps=30, progress=False)
    assert all(torch.equal(before[key], value) for key, value in qann.state_dict().items())
    assert set(choice) == set(quantizers(qann)) - {"output_quantizer"}
    assert [quantizer.highest for quantizer in quantizers(qann).values()].count(15) == 1


def test_the_table_has_a_row_for_each_layer_and_the_sum() -> None:
    choice = chosen(steps=8)
    head, *rows, last = str(choice).splitlines()
    assert [row.split()[0] for row in rows] == list(choice)
    assert all(f"n = {n}" in head for n in CANDIDATES)
    assert last == choice.summary()
    assert f"settled after {choice.steps} steps" in last


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "give one budget, of steps, spikes, changed, error, not 0"),
        ({"steps": 8, "error": 0.1}, "give one budget, .* not 2"),
        ({"steps": 0}, "no choice of levels fits steps = 0: the nearest has "),
        ({"error": 1e-9}, "no choice of levels fits error = 1e-09: the nearest has "),
        ({"steps": 8, "candidates": (7, 3)}, "in increasing order, not"),
        ({"steps": 8, "candidates": ()}, "in increasing order, not"),
    ],
)
def test_bad_input(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        chosen(**budget)


def test_batches_hold_no_labels() -> None:
    x = batches()[0]
    for some, message in (([], "at least one batch"), ([(x, torch.zeros(16))], "input"), (x, "give a list")):
        with pytest.raises(InvalidArgument, match=message):
            choose_bits(network().eval(), some, steps=8, progress=False)


def test_the_choice_is_complete_for_a_network_that_ends_in_a_relu() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU()), torch.randn(40, 6)
    choice = choose_bits(model, [x], steps=12, progress=False)
    assert list(choice) == ["1", "3"]
    levels = [quantizer.highest for quantizer in quantizers(qffs.quantize(model, levels=choice, example=x)).values()]
    assert levels == list(choice.values())
    qann = qffs.calibrate(qffs.quantize(model, 2, 3, example=x), [x])
    kept = choose_bits(qann, [x], steps=30, progress=False)
    assert kept["3"] == 7
    assert list(kept.effects) == ["1"]


def test_activations_in_full_precision_stay_so() -> None:
    model, x = network().eval(), batches()[0]
    first, *_ = quantizers(qffs.quantize(model, example=x))
    choice = choose_bits(qffs.quantize(model, {first: "full", "*": 2}, example=x), [x], steps=40, progress=False)
    assert choice[first] == "full"
    assert first not in choice.effects
    assert first not in quantizers(qffs.quantize(model, levels=choice, example=x))


def test_images_run_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = Quantizer.forward
    monkeypatch.setattr(Quantizer, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    choose_bits(network().eval(), [torch.cat(5 * batches())], steps=12, progress=False)
    assert max(sizes) == 128


def test_changed_is_of_classes() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), torch.randn(40, 6)
    with pytest.raises(InvalidArgument, match="one output of classes in dimension 1"):
        choose_bits(model, [x], changed=0.1, progress=False)
    choice = choose_bits(model, [x], steps=12, progress=False)
    assert choice.changed is None
    assert "another class" not in choice.summary()
