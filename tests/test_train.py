"""Training: what a step may touch, what repeats, and what stops it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qffs import train
from qffs.checkpoint import load, save
from qffs.convert import quantize
from qffs.data import Images
from qffs.errors import Diverged, InvalidArgument
from qffs.graph.trace import trace
from qffs.train import Training, fit


def pictures(count: int = 40, seed: int = 0) -> Images:
    """Two classes that differ in which half is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=generator)
    images[labels == 1, :, :, 4:] += 120
    return Images(images.to(torch.uint8), labels)


def normalise(images: Tensor) -> Tensor:
    return images.float() / 255


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(256, 2))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_training_learns_reports_and_ends_in_eval_mode() -> None:
    model, seen = network(), []
    history = fit(
        model, pictures(), normalise, Training(4, 0.05, batch_size=16), after_epoch=seen.append, progress=False
    )
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
    expected = [
        nn.functional.cross_entropy(model(normalise(data.images[part])), data.labels[part], reduction="sum").item()
        for part in torch.randperm(10, generator=torch.Generator().manual_seed(3)).split(4)
    ]
    (epoch,) = fit(model, data, normalise, Training(1, 1e-30, batch_size=4, seed=3), progress=False)
    assert epoch.loss == pytest.approx(sum(expected) / 10, rel=1e-5)


def test_no_epochs_change_nothing_but_the_mode() -> None:
    model, before = network(), state(network())
    assert fit(model, pictures(), normalise, Training(0, 0.1), progress=False) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(quantised: bool, autocast: bool) -> None:
    def trained(seed: int, drawn: int) -> dict[str, Tensor]:
        model: nn.Module = network()
        if quantised:
            model = quantize(model, 2, example=torch.ones(1, 1, 8, 8))
        torch.rand(drawn)  # what was drawn before does not matter
        training = Training(2, 0.05, batch_size=16, augment=True, mirror=True, autocast=autocast, seed=seed)
        fit(model, pictures(), normalise, training, progress=False)
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
        fit(model, pictures(), lambda images: normalise(images) * value, Training(1, 0.1), progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_divergence_later_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    model, weights = NanFrom(batches=5), []

    def keep(_: object) -> None:
        weights.append(state(model.layer)["weight"])
        save(trace(nn.Sequential(model.layer), torch.ones(1, 64)), tmp_path / "net")

    training = Training(3, 0.1, batch_size=20)
    with pytest.raises(Diverged, match="in epoch 3 of training"):
        fit(model, pictures(), normalise, training, after_epoch=keep, progress=False)
    assert len(weights) == 2
    assert torch.equal(load(tmp_path / "net").network.get_parameter("0.weight"), weights[-1])


def test_weights_that_the_last_step_of_an_epoch_broke_are_not_kept() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    model[1].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match=r"1\.weight became NaN or infinite in epoch 1"):
        fit(
            model, pictures(), normalise, Training(1, 0.1), after_epoch=lambda _: pytest.fail("kept"), progress=False
        )  # one batch: its loss is finite


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs must be 0 or more, not -1"),
        ({"learning_rate": 0.0}, "the learning rate must be a finite number above 0, not 0.0"),
        ({"learning_rate": -1.0}, "the learning rate"),
        ({"learning_rate": math.nan}, "the learning rate must be a finite number above 0, not nan"),
        ({"learning_rate": math.inf}, "the learning rate"),
        ({"batch_size": 0}, r"the batch size must be from 1 to 2\^31 - 1, not 0"),
        ({"batch_size": 2**31}, r"the batch size must be from 1 to 2\^31 - 1, not 2147483648"),
        ({"seed": -1}, "the seed must be from 0 to"),
        ({"seed": 2**64}, "the seed must be from 0 to"),
    ],
)
def test_settings_that_can_never_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Training(**{"epochs": 1, "learning_rate": 0.1, **settings})


def test_the_learning_rate_starts_at_its_value_and_ends_near_zero_along_a_cosine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates, step = [], torch.optim.SGD.step

    def recorded(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    fit(network(), pictures(), normalise, Training(2, 0.08, batch_size=10), progress=False)
    assert rates == pytest.approx([0.04 * (1 + math.cos(math.pi * done / 8)) for done in range(8)])


@pytest.mark.parametrize("per_channel", [False, True])
def test_only_weights_of_layers_decay(per_channel: bool) -> None:
    model = quantize(network(), 2, example=torch.ones(1, 1, 8, 8), per_channel=per_channel)
    model.get_parameter("5.bias").requires_grad_(False)
    decaying, others = train._groups(model, 0.01)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert [names[p] for p in decaying["params"]] == ["0.weight", "5.weight"]
    assert {names[p] for p in others["params"]} == {"0.bias", "1.weight", "1.bias", "2.step_size"}
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)


# Augmentation


def test_every_image_is_shifted_by_up_to_an_eighth_and_black_comes_in() -> None:
    images = torch.randint(1, 255, (300, 2, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifted = train._shifted(images, torch.Generator().manual_seed(1))
    assert shifted.shape == images.shape
    assert shifted.dtype == torch.uint8
    padded = nn.functional.pad(images, (1, 1, 2, 2))
    found = set()
    for image, after in zip(padded, shifted, strict=True):
        (place,) = [
            (row, column)
            for row in range(5)
            for column in range(3)
            if torch.equal(image[:, row : row + 16, column : column + 8], after)
        ]
        found.add(place)
    assert len(found) == 15  # every shift occurs


@pytest.mark.parametrize("mirror", [False, True])
def test_only_mirroring_mirrors_half_of_the_images_and_labels_stay(mirror: bool) -> None:
    data = pictures(200)
    numbered = torch.arange(200).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    numbered[..., 7] = 255  # where the right edge went
    images = Images(numbered.to(torch.uint8), data.labels)
    training = Training(1, 0.1, batch_size=32, mirror=mirror)
    batches = list(train._batches(images, lambda x: x, training, torch.Generator().manual_seed(0)))
    assert [len(x) for x, _ in batches] == [32] * 6 + [8]
    x, labels = torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])
    mirrored = x[:, 0, 0, 0] == 255
    assert (60 < int(mirrored.sum()) < 140) is mirror
    assert mirror or not bool(mirrored.any())
    numbers = x[:, 0, 0, 4].long()
    assert sorted(numbers.tolist()) == list(range(200))
    assert torch.equal(labels, data.labels[numbers])


def test_without_augmentation_the_images_go_in_as_they_are() -> None:
    data = pictures(8)
    ((x, labels),) = train._batches(data, lambda x: x, Training(1, 0.1, seed=4), torch.Generator().manual_seed(4))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(4))
    assert torch.equal(x, data.images[order])
    assert torch.equal(labels, data.labels[order])
