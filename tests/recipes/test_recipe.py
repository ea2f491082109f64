"""Recipes as data: bounds, what must fit together, the charge schedule and the steps of a run."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qffs.errors import InvalidArgument
from qffs.method import Schedule
from qffs.recipes.recipe import Recipe, Training, differences

SECTION = {"epochs": 3, "learning_rate": 0.1}


def wrong(**values: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        Recipe.of(values)
    return str(caught.value)


# One value


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("held_out", 1.0, "a number of at least 0 and below 1, not 1.0"),
        ("seed", -1, "a whole number of at least 0 and below 2^63, not -1"),
        ("size", 2.5, "a whole number of at least 1 and at most 8192, or null, not 2.5"),
        ("steps", "8", 'a whole number of at least 1, or null, not "8"'),
        ("per_channel", 1, "true or false, not 1"),
        ("workers", True, "a whole number of at least 0, not true"),
        ("fused", "yes", 'true or false, or auto, not "yes"'),
        ("precision", "half", 'float32 or bfloat16, not "half"'),
        ("output", 9, "a whole number of at least 1 and at most 8, or analog, not 9"),
        ("data", None, "a text, not null"),
        ("charge_steps", [], "a whole number, a list of numbers that add up to 1, or null, not []"),
        ("quantized", 3, "a mapping with keys such as epochs, learning_rate, batch_size, not 3"),
        ("augmentation", ["RandomCrop"], 'a list, each `Name: {argument: value}`, not ["RandomCrop"]'),
        ("model", ["x" * 100], f'a text, not ["{"x" * 55}...'),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    assert wrong(**{key: value}) == f"{key} must be {allowed}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    assert wrong(quantized=SECTION | {"learning_rate": value}).startswith("quantized.learning_rate must be a number")


def test_all_mistakes_are_said_at_once_each_with_its_section() -> None:
    assert wrong(full_precision={"epochs": -1}, seed=-1, bitz=2) == (
        "full_precision.epochs must be a whole number of at least 0, not -1; "
        "full_precision.learning_rate is missing: it must be a number above 0; "
        "seed must be a whole number of at least 0 and below 2^63, not -1; "
        "bitz is no key; did you mean bits?"
    )


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ({"learning_rate": 1}, "full_precision.learning_rate or quantized.learning_rate"),
        ({"momentun": 1}, "full_precision.momentum or quantized.momentum"),
        ({"quantized": {**SECTION, "momentun": 0.5}}, "quantized.momentum"),
        ({"quantized": {**SECTION, "bits": 2}}, "bits"),
        ({"charge_step": 1}, "charge_steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_ones(values: dict[str, Any], nearest: str) -> None:
    assert wrong(**values).endswith(f"is no key; did you mean {nearest}?")


def test_where_no_key_is_near_all_of_the_section_are_named() -> None:
    assert "is no key; there are model, model_arguments, " in wrong(xyzzy=1)
    assert "is no key; there are epochs, learning_rate, " in wrong(quantized=SECTION | {"xyzzy": 1})


def test_a_recipe_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().seed = 1  # type: ignore[misc]


# What must fit together


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bits": 9}, "bits cannot be 9: bits must be a whole number from 1 to 8"),
        ({"bits": {}}, "bits cannot be {}: bits by pattern must map"),
        ({"bits": {"*": "half"}}, "for '*', bits must be a whole number"),
        ({"charge_steps": [0.5, 0.4]}, "charge_steps cannot be [0.5, 0.4]: charge weights must add up to 1"),
        ({"candidates": [2, 0], "held_out": 0.1}, "candidates cannot hold 0: charge steps must be a whole number"),
        ({"steps": 2}, "steps must be at least the 3 charge steps and at most 1,048,576, not 2"),
        ({"steps": 2**20 + 1}, "and at most 1,048,576"),
        (
            {"calibration_images": 1, "reconstruction_steps": 5},
            "calibration_images must be at least 2 for a reconstruction",
        ),
        ({"calibration_images": 10**80}, "calibration_images is too large a number: 1000000000"),
        ({"quantized": {**SECTION, "epochs": 2**63}}, "quantized.epochs is too large a number: 9223372036854775808"),
        ({"workers": 257}, "workers must be at most 256, not 257: each is a process"),
        ({"steps": 3, "candidates": [4], "held_out": 0.1}, "steps must be at least the 4 charge steps"),
        ({"choose_at": 9, "candidates": [2], "held_out": 0.1}, "choose_at must be at most the 8 steps of a run, not 9"),
        ({"choose_at": 2, "candidates": [3], "held_out": 0.1}, "choose_at must be at least the 3 charge steps, not 2"),
        ({"choose_at": 8}, "choose_at acts only where there are candidates"),
        ({"candidates": [2]}, "candidates need a held_out above 0"),
        (
            {"candidates": [2], "held_out": 0.1, "charge_steps": 2},
            "charge_steps is not used where there are candidates",
        ),
        ({"full_precision": SECTION | {"distillation": 0.5}}, "full_precision.distillation must be 0"),
        ({"quantized": SECTION | {"nesterov": True, "optimizer": "adamw"}}, "quantized.nesterov needs optimizer: sgd"),
        ({"quantized": SECTION | {"nesterov": True, "momentum": 0}}, "quantized.nesterov needs"),
        ({"quantized": SECTION | {"small_share": 1.5}}, "quantized.small_share must be a number of at least 0 and at"),
        ({"quantized": SECTION | {"warmup_epochs": 4}}, "quantized.warmup_epochs must be at most the 3 epochs, not 4"),
        ({"quantized": SECTION | {"decay": 0.5}}, "quantized.decay acts only with schedule: exponential, not cosine"),
        ({"quantized": SECTION | {"momentum": 0.8, "optimizer": "adamw"}}, "quantized.momentum acts only with"),
        (
            {"full_precision": SECTION | {"step_size_weight_decay": True}},
            "acts only in quantized training: leave it out",
        ),
        ({"full_precision": SECTION | {"step_size_learning_rate": 0.1}}, "full_precision.step_size_learning_rate acts"),
        ({"full_precision": SECTION | {"level_penalty": 0}}, "full_precision.level_penalty acts only in quantized"),
        ({"quantized": SECTION | {"temperature": 2}}, "quantized.temperature acts only with a distillation"),
        ({"teacher": "cifar_resnet56"}, "teacher acts only with a quantized.distillation above 0: leave it out"),
        ({"teacher_weights": "w.pt", "quantized": SECTION | {"distillation": 1}}, "teacher_weights acts only with a"),
        ({"augmentation": [{"A": {}}, {"B": {}, "C": {}}]}, "augmentation must name one class in each place, not 2 in"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, Any], sentence: str) -> None:
    assert sentence in wrong(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 3},
        {"steps": 2, "candidates": [2, 1], "held_out": 0.1},
        {"choose_at": 8, "candidates": [3], "held_out": 0.1},
        {"bits": {"layer4.*": 3, "*": "full"}, "output": 8},
        {"quantized": SECTION | {"nesterov": True}},
        {"quantized": SECTION | {"step_size_learning_rate": 0.1, "step_size_weight_decay": True, "optimizer": "adamw"}},
        {"quantized": SECTION | {"warmup_epochs": 3}},
        {"quantized": SECTION | {"decay": 0.5, "schedule": "exponential"}},
        {"quantized": SECTION | {"distillation": 1, "temperature": 2}},
        {"full_precision": SECTION | {"epochs": 0, "warmup_epochs": 2, "small_share": 1}},
        {"teacher": "n", "teacher_weights": "w.pt", "quantized": SECTION | {"distillation": 0.5}},
    ],
)
def test_what_just_fits_together_is_taken(values: dict[str, Any]) -> None:
    assert isinstance(Recipe.of(values), Recipe)


# The schedule and the steps, which were those of the task


@pytest.mark.parametrize(
    ("values", "charged"),
    [
        ({}, 3),
        ({"bits": 3}, 7),
        ({"bits": {"a": 1, "b": "full", "*": 2}, "output": 4}, 3),
        ({"bits": {"*": "full"}, "output": 3}, 7),
        ({"bits": {"*": "full"}}, 1),
        ({"charge_steps": 5}, 5),
    ],
)
def test_by_default_the_charge_lasts_as_many_steps_as_the_finest_hidden_layer_has_levels(
    values: dict[str, Any], charged: int
) -> None:
    assert Recipe.of(values).schedule == Schedule.uniform(charged)


def test_weights_by_step_are_the_schedule() -> None:
    assert Recipe(charge_steps=[0.5, 0.25, 0.25]).schedule.weights == (0.5, 0.25, 0.25)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, 8),
        ({"data": "cifar10:x"}, 16),
        ({"bits": 3}, 14),
        ({"bits": 4, "data": "x"}, 30),
        ({"charge_steps": 5}, 10),
        ({"steps": 3}, 3),
        ({"candidates": [2, 6], "held_out": 0.5, "bits": 4}, 12),
    ],
)
def test_by_default_a_run_is_twice_as_long_as_the_longest_charge_and_no_shorter_than_usual(
    values: dict[str, Any], steps: int
) -> None:
    assert Recipe.of(values).horizon == steps


def test_differences_name_keys_with_their_sections() -> None:
    other = Recipe.of({"bits": {"*": 2}, "quantized": {"epochs": 15, "learning_rate": 0.1, "batch_size": 64}})
    assert differences(Recipe(), other) == ["bits", "quantized.learning_rate"]
    assert differences(other, other.model_copy()) == []


def test_a_default_that_is_said_is_no_difference() -> None:
    assert differences(Recipe(seed=0), Recipe()) == []
    assert Training(epochs=1, learning_rate=1) == Training(epochs=1, learning_rate=1.0, batch_size=128)
