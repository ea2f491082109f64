"""The optimizer's groups and its learning rate by step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from qffs.convert import quantize
from qffs.recipes.recipe import Training
from qffs.train.optimize import few_steps, optimizer_of, rate


def training(**more: object) -> Training:
    return Training(**{"epochs": 4, "learning_rate": 0.1, "weight_decay": 0.01, **more})


def test_along_a_cosine_to_zero() -> None:
    rates = [rate(training(), done, 5) for done in range(21)]
    assert rates == pytest.approx([(1 + math.cos(math.pi * done / 20)) / 2 for done in range(21)])
    assert (rates[0], rates[-1]) == (1, 0)


def test_exponential_is_the_same_factor_an_epoch() -> None:
    rates = [rate(training(schedule="exponential", decay=0.8), done, 5) for done in range(20)]
    assert rates[::5] == pytest.approx([1, 0.8, 0.64, 0.512])
    assert all(after < before for before, after in itertools.pairwise(rates))


def test_constant_stays() -> None:
    assert {rate(training(schedule="constant"), done, 5) for done in range(20)} == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "constant"])
def test_warm_up_rises_in_equal_steps_and_hands_over_at_the_top(schedule: str) -> None:
    rates = [rate(training(schedule=schedule, warmup_epochs=1.6), done, 5) for done in range(20)]
    assert rates[:8] == pytest.approx([(done + 1) / 8 for done in range(8)])
    assert rates[8] == 1


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("decays", [False, True])
def test_groups_of_weights_of_the_rest_and_of_step_sizes(per_channel: bool, decays: bool) -> None:
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
    model = quantize(nn.Sequential(*layers), 2, example=torch.ones(1, 1, 8, 8), per_channel=per_channel)
    model.get_parameter("4.bias").requires_grad_(False)
    asked = training(step_size_weight_decay=decays, step_size_learning_rate=0.5)
    optimizer = optimizer_of(model, asked)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        ({names[p] for p in group["params"]}, group["weight_decay"], group["peak"]) for group in optimizer.param_groups
    ]
    assert found == [
        ({"0.weight", "4.weight"}, 0.01, 0.1),
        ({"0.bias", "1.weight", "1.bias"}, 0.0, 0.1),
        ({"2.step_size"}, 0.01 if decays else 0.0, 0.05),
    ]


def test_the_optimizer_asked_for() -> None:
    layer = nn.Linear(2, 2)
    sgd = optimizer_of(layer, training(nesterov=True, momentum=0.5))
    assert (type(sgd), sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (torch.optim.SGD, 0.5, True)
    assert type(optimizer_of(layer, training(optimizer="adamw"))) is torch.optim.AdamW


@pytest.mark.parametrize(
    ("images", "batch_size", "words"),
    [
        (2560, 128, ""),
        (2432, 128, "an epoch has only 19 training steps: use a smaller batch_size, such as 32"),
        (400, 128, "an epoch has only 4 training steps: use a smaller batch_size, such as 10"),
        (10, 1, ""),  # there is no smaller one
    ],
)
def test_few_steps_have_advice(images: int, batch_size: int, words: str) -> None:
    assert few_steps(images, batch_size) == words
