"""Reconstruction against closed forms, and what it must leave alone."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import qffs
from helpers.problems import images, network
from qffs.errors import Diverged, Inaccurate, InvalidArgument, NotCalibrated
from qffs.kernels import lsq
from qffs.nn.inspect import quantizers
from qffs.nn.quantizer import Quantizer
from qffs.train import reconstruct as module
from qffs.train import values
from qffs.train.reconstruct import reconstruct


def perceptron(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4)).double()


def inputs(count: int = 256, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def quantized(model: nn.Module, x: Tensor, bits: int = 2, output: Any = "analog") -> fx.GraphModule:
    qann = qffs.quantize(model, bits, output, example=x)
    qffs.calibrate(qann, [x], "lsq")
    return qann


def short(qann: fx.GraphModule, model: nn.Module, x: Any, **options: Any) -> nn.Module:
    options = {"steps": 40, "block_steps": 40, "progress": False} | options
    return reconstruct(qann, model, x.split(64) if isinstance(x, Tensor) else x, **options)


def relative(y: Tensor, t: Tensor) -> float:
    return float((y - t).square().sum() / t.square().sum())


def distance(qann: nn.Module, model: nn.Module, x: Tensor) -> float:
    """The relative squared error of the outputs."""
    with torch.no_grad():
        return relative(qann.eval()(x), model(x))


@pytest.mark.filterwarnings("ignore::qffs.errors.Inaccurate")  # its outputs are no classes
def test_a_linear_layer_behind_a_quantizer_reaches_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARNING_RATE", 0.02)
    monkeypatch.setattr(module, "PATIENCE", (module.CHECKS, 1))
    monkeypatch.setattr(module, "LARGE", 0.0001)  # the least error is not 0, and far away
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.ReLU(), nn.Linear(6, 3)).double(), inputs(4096)  # so that an eighth matters little
    qann = quantized(model, x, bits=1)
    quantizer = qann.get_submodule("0")
    assert isinstance(quantizer, Quantizer)
    quantizer.step_size.requires_grad_(False)
    levels = torch.cat([quantizer(x), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    targets = model(x).detach()
    best = relative(levels @ torch.linalg.lstsq(levels, targets).solution, targets)
    before = distance(qann, model, x)
    short(qann, model, x, steps=1500, block_steps=0, mix=False)
    assert before > 1.2 * best
    assert best <= distance(qann, model, x) < 1.01 * best


@pytest.mark.parametrize(("steps", "block_steps"), [(120, 0), (0, 120)])
def test_it_comes_nearer_to_the_network_in_full_precision(steps: int, block_steps: int) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    before = distance(qann, model, x)
    assert short(qann, model, x, steps=steps, block_steps=block_steps) is qann
    assert distance(qann, model, x) < 0.8 * before


def test_the_spiking_network_equals_the_reconstructed_one() -> None:
    model, x = network(), images(count=32)
    qann = quantized(model, x, output=3)
    before = {name: weight.clone() for name, weight in qann.named_parameters()}
    short(qann, model, x).eval()
    assert not any(torch.equal(before[name], weight) for name, weight in qann.named_parameters())
    qffs.verify(qann, qffs.to_spiking(qann), images(seed=5))


def test_an_output_that_spikes_approaches_the_positive_part() -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x, output=3)
    positive = nn.Sequential(model, nn.ReLU())
    before = distance(qann, positive, x)
    short(qann, model, x, steps=200)
    assert distance(qann, positive, x) < 0.7 * before


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_step_sizes_stay_above_zero_in_any_units(scale: float) -> None:
    model, x = perceptron(), inputs()
    first = model[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.mul_(scale)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(scale)
    qann = quantized(model, x, bits=1)
    before = {path: float(q.step_size.detach()) for path, q in quantizers(qann).items()}
    short(qann, model, x, steps=200)
    after = {path: float(q.step_size.detach()) for path, q in quantizers(qann).items()}
    assert all(0.5 * before[path] < after[path] < 2 * before[path] != 2 * after[path] for path in before)
    qffs.verify(qann.eval(), qffs.to_spiking(qann), x[:16])


def test_small_step_sizes_beside_large_ones_stay_above_zero() -> None:
    model, x = perceptron(), inputs()
    first = model[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight[:8] *= 1e-4
        first.bias[:8] *= 1e-4
    qann = qffs.quantize(model, bits=1, example=x, per_channel=True)
    qffs.calibrate(qann, [x], "lsq")
    before = qann.get_submodule("1").step_size.detach().clone()
    short(qann, model, x, steps=300)
    after = qann.get_submodule("1").step_size.detach()
    assert not torch.equal(before, after)
    assert bool((after > 0).all())
    qffs.verify(qann.eval(), qffs.to_spiking(qann), x[:16])


class TwoHeads(nn.Module):
    """The second output is never above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.body(x))
        return self.first(hidden), self.second(hidden) - 9


def test_an_output_that_is_always_zero_does_not_decide_alone() -> None:
    torch.manual_seed(0)
    model, x = TwoHeads().double(), inputs()
    qann = quantized(model, x, output=4)

    def first() -> float:
        with torch.no_grad():
            return relative(qann.eval()(x)[0], model(x)[0].relu())

    before = first()
    short(qann, model, x, steps=200)
    assert first() < 0.8 * before


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    x[7, 0] = value
    with pytest.raises(Diverged, match="NaN reached an output"):
        short(qann, model, x)


def test_without_gradients_and_with_fused_quantizers_it_trains_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron().float(), inputs().float()
    qann = quantized(model, x)
    before = distance(qann, model, x)
    monkeypatch.setattr(module, "FUSED_FROM_PIXELS", 0)
    monkeypatch.setattr(lsq, "_compiled", lambda body: body)
    monkeypatch.setattr(lsq, "available", lambda _: True)
    seen: list[bool] = []
    real = module._Task._loss

    def loss(task: Any) -> Tensor:
        seen.extend(quantizer.fused and quantizer.training for quantizer in quantizers(task.student).values())
        return real(task)

    monkeypatch.setattr(module._Task, "_loss", loss)
    with torch.no_grad():
        short(qann.train(), model, x)
    assert seen
    assert all(seen)
    assert all(quantizer.training and not quantizer.fused for quantizer in quantizers(qann).values())
    assert distance(qann, model, x) < 0.9 * before


def test_the_last_step_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    at: list[int] = []
    steps: list[int] = []
    monkeypatch.setattr(module._Task, "measure", lambda _: at.append(len(steps)) or 1.0 / len(at))
    real = module._Task._loss
    monkeypatch.setattr(module._Task, "_loss", lambda task: steps.append(1) or real(task))
    short(qann, model, x, steps=25, block_steps=0)
    assert at == [0, 0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 25]


def test_the_seed_decides_every_weight() -> None:
    model, x = perceptron(), inputs()
    first, again, other = (short(quantized(model, x), model, x, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_autocast_sets_the_type_of_the_steps() -> None:
    model, x = perceptron().float(), inputs().float()
    qann = quantized(model, x)
    before = distance(qann, model, x)
    full = short(quantized(model, x), model, x).state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        half = short(qann, model, x)
    assert distance(half, model, x) < 0.9 * before
    assert not all(torch.equal(full[name], qann.state_dict()[name]) for name in full)


def test_a_network_of_many_levels_stays_as_good_as_it_is() -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x, bits=8)
    before = distance(qann, model, x)
    short(qann, model, x)
    assert before < 1e-3
    assert distance(qann, model, x) <= before * 1.05  # other images than those held out


def test_it_ends_no_worse_than_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    before = {name: tensor.clone() for name, tensor in qann.state_dict().items()}
    monkeypatch.setattr(module, "LEARNING_RATE", 10.0)
    short(qann, model, x)
    assert all(torch.equal(tensor, qann.state_dict()[name]) for name, tensor in before.items())


def test_blocks_that_harm_the_whole_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    before = {name: tensor.clone() for name, tensor in qann.state_dict().items()}

    def harm(work: Any, *_: Any) -> None:
        for parameter in work.parameters:
            parameter.data.mul_(3.0)

    monkeypatch.setattr(module._Task, "minimize", harm)
    short(qann, model, x)
    assert all(torch.equal(tensor, qann.state_dict()[name]) for name, tensor in before.items())


def test_an_error_on_the_way_leaves_all_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x).train()
    before = {name: tensor.clone() for name, tensor in qann.state_dict().items()}
    calls: list[int] = []
    real = module.error

    def stop(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "error", stop)
    with pytest.raises(KeyboardInterrupt):
        short(qann, model, x)
    assert qann.training
    assert not any(quantizer.fused for quantizer in qann.modules() if isinstance(quantizer, Quantizer))
    assert all(torch.equal(tensor, qann.state_dict()[name]) for name, tensor in before.items())


def test_the_weights_of_the_least_error_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    weights: list[Tensor] = []

    def measured(_: Any) -> float:
        weights.append(qann.get_submodule("2").weight.clone())
        return {0: 1.0, 3: 0.5}.get(len(weights) - 1, 0.9)  # the fourth is the second on the way

    monkeypatch.setattr(module._Task, "measure", measured)
    short(qann, model, x, block_steps=0)
    assert not torch.equal(weights[3], weights[2])
    assert torch.equal(qann.get_submodule("2").weight, weights[3])


def test_where_nothing_is_gained_it_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    steps: list[int] = []
    real = module._Task._loss
    monkeypatch.setattr(module._Task, "measure", lambda _: 1.0)
    monkeypatch.setattr(module._Task, "_loss", lambda task: steps.append(1) or real(task))
    short(quantized(model, x), model, x, steps=200, block_steps=0)
    assert len(steps) == 200 * sum(module.PATIENCE) // module.CHECKS  # at the rates, and at smaller ones


@pytest.mark.parametrize(("error", "length"), [(0.8, 1e-3), (0.2, 1e-3), (0.002, 1e-4)])
def test_a_small_error_is_trained_at_small_rates(error: float, length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    weight, errors = qann.get_submodule("2").weight, [error, error, error / 2, error / 2]
    before = weight.detach().clone()
    monkeypatch.setattr(module._Task, "measure", lambda _: errors.pop(0))
    short(qann, model, x, steps=1, block_steps=0)
    moved = float((weight.detach() - before).abs().max())
    assert moved == pytest.approx(length, rel=1e-3)  # Adam's first step is as long as its rate


def test_where_nothing_is_gained_it_goes_back_and_on_at_smaller_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    weight, positions = qann.get_submodule("2").weight, list[Tensor]()

    def measured(_: Any) -> float:
        positions.append(weight.detach().clone())
        return 1.0

    monkeypatch.setattr(module._Task, "measure", measured)
    short(qann, model, x, steps=module.CHECKS, block_steps=0)
    before, first, *_ = positions[1:]
    after = positions[module.PATIENCE[0] + 2]
    lengths = [float((each - before).abs().max()) for each in (first, after)]
    cosine = (1 + math.cos(math.pi * module.PATIENCE[0] / module.CHECKS)) / 2
    assert lengths[1] / lengths[0] == pytest.approx(module.SLOWER * cosine, rel=0.01)


def test_a_network_that_predicts_other_classes_is_warned_of() -> None:
    model, x = perceptron(), inputs(512)
    model[-1].bias.data -= model(x).mean(0).detach()  # so that each class is the largest for some inputs
    qann = quantized(model, x, bits=1)
    for quantizer in quantizers(qann).values():
        quantizer.step_size.data *= 100  # no activation reaches the first level any more
    with pytest.warns(Inaccurate, match="of 64 held-out images: quantize it with more bits") as caught:
        short(qann, model, x, steps=1, block_steps=0)
    assert caught[0].filename == __file__


def test_values_in_files_give_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = perceptron(), inputs()
    memory = short(quantized(model, x), model, x).state_dict()
    monkeypatch.setattr(values, "IN_MEMORY", 0)
    files = short(quantized(model, x), model, x).state_dict()
    assert all(torch.equal(memory[name], files[name]) for name in memory)


def test_modes_statistics_and_the_model_are_left_alone() -> None:
    model, x = network(), images(count=32)
    qann = quantized(model, x).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    statistics = {name: tensor.clone() for name, tensor in qann.state_dict().items() if "running" in name}
    short(qann, model, x)
    assert qann.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in weights.items())
    assert all(torch.equal(tensor, qann.state_dict()[name]) for name, tensor in statistics.items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in qann.parameters())


def test_parameters_without_gradients_stay() -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    first = qann.get_submodule("0")
    first.requires_grad_(False)
    weight = first.weight.clone()
    short(qann, model, x)
    assert torch.equal(first.weight, weight)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.last = nn.Embedding(5, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, tokens: Tensor, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.embed(tokens) + self.first(x))
        return {"out": self.last(hidden), "hidden": hidden}


def test_several_inputs_some_of_them_whole_numbers() -> None:
    torch.manual_seed(0)
    model, x = TwoInputs().double(), inputs()
    tokens = torch.arange(len(x)) % 5
    qann = qffs.quantize(model, bits=1, example=(tokens, x))
    qffs.calibrate(qann, [(tokens, x)], "lsq")

    def total() -> float:
        with torch.no_grad():
            outputs, targets = qann.eval()(tokens, x), model(tokens, x)
            return sum(relative(outputs[name], targets[name]) for name in targets)

    before = total()
    short(qann, model, [(tokens[:40], x[:40]), (tokens[40:], x[40:])], steps=100)
    assert total() < 0.98 * before


def test_bad_input() -> None:
    model, x = perceptron(), inputs()
    qann = quantized(model, x)
    with pytest.raises(InvalidArgument, match="reconstruct takes the network"):
        short(model, model, x)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="alone, without labels"):
        short(qann, model, [(x, torch.zeros(len(x)))])
    with pytest.raises(InvalidArgument, match=r"such as \[x\]"):
        reconstruct(qann, model, x)
    with pytest.raises(InvalidArgument, match="at least two images"):
        short(qann, model, [x[:1]])
    with pytest.raises(InvalidArgument, match="at least one batch"):
        short(qann, model, [])
    with pytest.raises(InvalidArgument, match=r"does not run on a batch of \(64, 5\)"):
        short(qann, model, [x[:64, :5]])
    with torch.inference_mode(), pytest.raises(InvalidArgument, match="inference_mode"):
        short(qann, model, x)
    with pytest.raises(InvalidArgument, match="lost the shapes of its example"):
        short(pickle.loads(pickle.dumps(qann)), model, x)
    with pytest.raises(
        InvalidArgument, match=r"not the one that was quantized: it has no 0\.weight of shape \[24, 6\]"
    ):
        short(qann, nn.Linear(6, 4).double(), x)
    with pytest.raises(InvalidArgument, match=r"it has no 0\.weight of shape \[24, 6\]"):
        short(qann, nn.Sequential(nn.Linear(6, 6)).double(), x)
    with pytest.raises(InvalidArgument, match="must be whole numbers, not 5 and -1"):
        short(qann, model, x, steps=5, block_steps=-1)
    with pytest.raises(InvalidArgument, match="seed"):
        short(qann, model, x, seed=-1)
    with pytest.raises(NotCalibrated):
        short(qffs.quantize(model, bits=2, example=x), model, x)


def test_outputs_that_a_mask_makes_infinite_are_left_out() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = perceptron()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layers(x)
            return logits.masked_fill(torch.tensor([False, True, False, False]), -torch.inf)

    model, x = Masked(), inputs()
    qann = qffs.quantize(model, 2, example=x)
    qffs.calibrate(qann, [x], "lsq")
    kept = [0, 2, 3]

    def apart() -> float:
        with torch.no_grad():
            return relative(qann.eval()(x)[:, kept], model(x)[:, kept])

    before = apart()
    short(qann, model, x, steps=200)
    assert apart() < 0.8 * before
    assert qann(x)[:, 1].isneginf().all()


def test_outputs_of_whole_numbers_are_left_out() -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = perceptron()

        def forward(self, numbers: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return numbers, self.network(x)

    model, x = Numbered(), inputs()
    numbers = torch.arange(len(x))
    qann = qffs.calibrate(qffs.quantize(model, example=(numbers, x)), [(numbers, x)])

    def distance() -> float:
        with torch.no_grad():
            return relative(qann.eval()(numbers, x)[1], model.network(x))

    before = distance()
    short(qann, model, [(numbers, x)], steps=200)
    assert distance() < 0.95 * before
