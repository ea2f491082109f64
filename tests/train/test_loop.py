"""Training: what a step may touch, what repeats, and what stops it."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qffs.convert import quantize
from qffs.data import Images
from qffs.errors import Diverged, InvalidArgument, Stopped
from qffs.graph.trace.trace import trace
from qffs.models.checkpoint import load, save
from qffs.recipes.recipe import Training
from qffs.train import distributed
from qffs.train.loop import Setting, fit, part_of
from qffs.train.seeds import seed_of
from qffs.train.state import Interruption, RunState


def pictures(count: int = 40, seed: int = 0) -> Images:
    """Two classes that differ in which half is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
    images[labels == 1, :, :, 4:] += 120
    return Images(images.to(torch.uint8), labels)


def normalize(images: Tensor) -> Tensor:
    return images.float() / 255


QUIET = Setting(progress=False)


def sgd(epochs: int, learning_rate: float, **more: Any) -> Training:
    return Training(epochs=epochs, learning_rate=learning_rate, **more)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(256, 2))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_training_learns_reports_and_ends_in_eval_mode() -> None:
    model, seen = network(), []
    history = fit(model, pictures(), normalize, sgd(4, 0.05, batch_size=16), QUIET, after_epoch=seen.append)
    assert [epoch.number for epoch in history] == [1, 2, 3, 4]
    assert seen == history
    assert history[-1].loss < history[0].loss / 2
    assert history[-1].accuracy == 1
    assert not any(module.training for module in model.modules())


def test_the_loss_of_an_epoch_is_the_mean_over_images_whatever_the_last_batch() -> None:
    model, data = network().eval(), pictures(10)
    model[3].p = 0.0
    model[1].momentum = 0.0
    model.train()
    generator = torch.Generator().manual_seed(seed_of(3, "training", 1))
    expected = [
        nn.functional.cross_entropy(model(normalize(data.images[part])), data.labels[part], reduction="sum").item()
        for part in torch.randperm(10, generator=generator).split(4)
    ]
    (epoch,) = fit(model, data, normalize, sgd(1, 1e-30, batch_size=4), Setting(seed=3, progress=False))
    assert epoch.loss == pytest.approx(sum(expected) / 10, rel=1e-5)


def test_no_epochs_change_nothing_but_the_mode() -> None:
    model, before = network(), state(network())
    assert fit(model, pictures(), normalize, sgd(0, 0.1), QUIET) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training


def test_a_network_without_a_weight_to_train_takes_no_epochs() -> None:
    model = network().requires_grad_(False)
    assert fit(model, pictures(), normalize, sgd(0, 0.1), QUIET) == []
    with pytest.raises(
        InvalidArgument, match=r"^training: no parameter of the network requires a gradient: set its epochs to 0"
    ):
        fit(model, pictures(), normalize, sgd(1, 0.1), QUIET)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(quantized: bool, autocast: bool) -> None:
    def trained(seed: int, drawn: int) -> dict[str, Tensor]:
        model: nn.Module = network()
        if quantized:
            model = quantize(model, 2, example=torch.ones(1, 1, 8, 8))
        torch.rand(drawn)  # what was drawn before does not matter
        setting = Setting(precision="bfloat16" if autocast else "float32", seed=seed, progress=False)
        fit(model, pictures(), normalize, sgd(2, 0.05, batch_size=16, ema=0.5), setting)
        return state(model)

    first, second, other = trained(1, 5), trained(1, 6), trained(2, 5)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(first["0.weight"], other["0.weight"])


# Divergence


class NanFrom(nn.Module):
    """Lets a number of batches pass, then turns everything into NaN."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.layer, self.left = nn.Linear(64, 2), batches

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        return self.layer(x.flatten(1)) * (1.0 if self.left >= 0 else math.nan)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(value: float) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    before = state(model)
    with pytest.raises(Diverged, match="the loss became nan in epoch 1 of training: lower the learning rate"):
        fit(model, pictures(), lambda images: normalize(images) * value, sgd(1, 0.1), QUIET)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_divergence_later_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    model, weights = NanFrom(batches=5), []

    def keep(_: object) -> None:
        weights.append(state(model.layer)["weight"])
        save(trace(nn.Sequential(model.layer), torch.ones(1, 64)), tmp_path / "net")

    training = sgd(3, 0.1, batch_size=20)
    with pytest.raises(Diverged, match="in epoch 3 of training"):
        fit(model, pictures(), normalize, training, QUIET, after_epoch=keep)
    assert len(weights) == 2
    assert torch.equal(load(tmp_path / "net").network.get_parameter("0.weight"), weights[-1])


def test_weights_that_the_last_step_of_an_epoch_broke_are_not_kept() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model[1].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match=r"1\.weight became NaN or infinite in epoch 1"):
        fit(
            model, pictures(), normalize, sgd(1, 0.1), QUIET, after_epoch=lambda _: pytest.fail("kept")
        )  # one batch: its loss is finite


def test_statistics_that_the_last_step_of_an_epoch_broke_are_not_kept() -> None:
    """A variance beyond the type's range makes features zero, and the loss is finite."""
    mask = torch.full((1, 8, 8), -math.inf)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2))
    model.register_buffer("mask", mask)  # infinite from the beginning, which is no fault
    fit(model, pictures(), normalize, sgd(1, 0.1), QUIET)
    with pytest.raises(Diverged, match=r"0\.running_var became NaN or infinite in epoch 1"):
        fit(model, pictures(), lambda images: normalize(images) * 1e30, sgd(1, 0.1), QUIET)


def test_a_state_from_which_nothing_can_go_on_is_not_written(tmp_path: Path) -> None:
    model, kept = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), Kept(tmp_path)
    steps = iter((1.0, 1.0, math.inf))
    model[1].weight.register_hook(lambda gradient: gradient * next(steps))
    with pytest.raises(Diverged, match=r"1\.weight became NaN or infinite in epoch 1 of training: lower"):
        fit(model, pictures(), normalize, sgd(1, 0.1, batch_size=8), dataclasses.replace(QUIET, state=kept))
    assert [state["step"] for state in kept.states] == [1, 2]


# What a run is made of


class Kept(RunState):
    """Keeps every state in memory, and asks for one after every step."""

    due = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.states: list[dict[str, Any]] = []

    def write(self, state: Mapping[str, Any]) -> None:
        stream = io.BytesIO()
        torch.save(dict(state), stream)
        self.states.append(torch.load(io.BytesIO(stream.getvalue()), weights_only=True))


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # inside PyTorch, as it compiles
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("quantized", "faster"),
    [
        (False, {}),
        (True, {}),
        pytest.param(True, {"fused": True, "precision": "bfloat16"}, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_any_state_to_the_same_weights(
    optimizer: str, quantized: bool, faster: dict[str, Any], tmp_path: Path
) -> None:
    """With dropout, batch norm, a moving average, warm-up, clipping and smoothing: everything that has a memory."""

    def fresh() -> nn.Module:
        return quantize(network(), 2, example=torch.ones(1, 1, 8, 8)) if quantized else network()

    more = {"warmup_epochs": 0.5, "ema": 0.9, "clip_gradient": 0.5, "label_smoothing": 0.1, "schedule": "exponential"}
    training = sgd(3, 0.05, batch_size=12, optimizer=optimizer, **more)
    whole, kept = fresh(), Kept(tmp_path)
    setting = dataclasses.replace(QUIET, **faster)
    history = fit(whole, pictures(), normalize, training, dataclasses.replace(setting, state=kept))
    assert len(kept.states) == 3 * (4 + 1)
    for saved in kept.states:
        again = fresh()
        assert fit(again, pictures(), normalize, training, setting, resume=saved) == history
        assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_being_asked_to_stop_saves_between_two_steps_and_goes_on(tmp_path: Path) -> None:
    whole, stopped, training = network(), network(), sgd(2, 0.05, batch_size=10)
    fit(whole, pictures(), normalize, training, QUIET)
    interruption, state = Interruption(), RunState(tmp_path)

    def asked_in_the_second_batch(images: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return normalize(images)

    calls: list[int] = []
    setting = Setting(progress=False, state=state, interruption=interruption)
    with interruption.watching(), pytest.raises(Stopped, match="stopped by SIGTERM at training, epoch 1, step 2 of 4"):
        fit(stopped, pictures(), asked_in_the_second_batch, training, setting)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    fit(again := network(5), pictures(), normalize, training, QUIET, resume=state.read())
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_the_average_is_what_is_measured_and_kept_and_does_not_disturb_training() -> None:
    def weights_after_epochs(model: nn.Module, **more: Any) -> list[Tensor]:
        found: list[Tensor] = []
        training = sgd(2, 0.05, batch_size=10, **more)
        fit(model, pictures(), normalize, training, QUIET, after_epoch=lambda _: found.append(state(model)["0.weight"]))
        return found

    averaged = network()
    own = weights_after_epochs(averaged, ema=0.9)
    assert not torch.equal(own[0], weights_after_epochs(network())[0])  # the average, not the weights of the moment
    assert torch.equal(averaged.get_parameter("0.weight"), own[-1])
    exact = network()
    weights = [state(exact)["0.weight"]]
    step = torch.optim.SGD.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", lambda self: (step(self), weights.append(state(exact)["0.weight"]))[0])
        fit(exact, pictures(), normalize, sgd(2, 0.05, batch_size=10), QUIET)
    average = weights[1]
    for done, weight in enumerate(weights[2:], 1):
        decay = min(0.9, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(own[-1], average, rtol=1e-5, atol=1e-6)  # float32, other order of operations


def test_held_out_accuracy_belongs_to_the_history() -> None:
    history = fit(network(), pictures(), normalize, sgd(2, 0.05), QUIET, after_epoch=lambda epoch: epoch.number / 10)
    assert [epoch.held_out for epoch in history] == [0.1, 0.2]


def test_every_image_is_trained_on_once_an_epoch_in_another_order_each_time() -> None:
    numbered = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    seen: list[int] = []

    def note(images: Tensor) -> Tensor:
        seen.extend(images[:, 0, 0, 0].tolist())
        return normalize(images)

    fit(network(), Images(numbered, torch.arange(40) % 2), note, sgd(2, 0.05, batch_size=12), QUIET)
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert seen[:40] != seen[40:]


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(9, 4, [4, 4]), (9, 9, [9]), (10, 4, [4, 4, 2])])
def test_no_batch_is_one_image_alone(count: int, batch_size: int, sizes: list[int]) -> None:
    """Of which batch norm over features can make no statistics."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    trained: list[int] = []
    model[2].register_forward_hook(lambda _, inputs, __: trained.append(len(inputs[0])))
    (epoch,) = fit(model, pictures(count), normalize, sgd(1, 0.05, batch_size=batch_size), QUIET)
    assert trained == sizes
    assert math.isfinite(epoch.loss)
    (epoch,) = fit(network(), pictures(1), normalize, sgd(1, 0.05), QUIET)  # there is no other
    assert math.isfinite(epoch.loss)


def test_the_gradient_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms, step = [], torch.optim.SGD.step

    def recorded(self: torch.optim.SGD, *args: Any) -> Any:
        norms.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).norm())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    fit(network(), pictures(), normalize, sgd(1, 0.05, clip_gradient=0.01), QUIET)
    assert norms == [pytest.approx(0.01, rel=1e-4)]


def test_the_first_epochs_see_smaller_images() -> None:
    sizes: list[tuple[int, ...]] = []

    class Noted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(tuple(x.shape[1:]))
            return self.layer(x.mean((2, 3)))

    fit(Noted(), pictures(), normalize, sgd(3, 0.01, batch_size=40, small_share=0.6), QUIET)
    assert sizes == [(1, 6, 6), (1, 6, 6), (1, 8, 8)]


def test_distillation_pulls_towards_the_teacher() -> None:
    images = pictures()
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) for _ in range(2))
    with torch.no_grad():
        teacher[1].weight.mul_(10)
    x = normalize(images.images)

    @torch.no_grad()
    def distance() -> float:
        own, others = (nn.functional.log_softmax(each(x), -1) for each in (student, teacher))
        return float(nn.functional.kl_div(own, others, reduction="batchmean", log_target=True))

    before = distance()
    setting = Setting(progress=False, teacher=teacher)
    fit(student, images, normalize, sgd(30, 0.1, batch_size=40, distillation=1.0, temperature=2.0), setting)
    assert distance() < before / 5


def test_a_process_alone_takes_the_whole_batch() -> None:
    assert part_of(7) == slice(0, 7)


def test_a_batch_that_leaves_a_process_without_an_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(InvalidArgument, match="a batch of 2 cannot be shared by 3 processes"):
        fit(network(), pictures(), normalize, sgd(1, 0.1, batch_size=2), QUIET)
