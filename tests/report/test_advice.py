"""Advice is given where a result is no good, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from qffs.report.advice import of_quantization
from qffs.report.results import advice_on_training


def results(full: float | None, qann: float | None, agreement: float, **more: Any) -> dict[str, Any]:
    shares = [{} if share is None else {"accuracy": share} for share in (full, qann)]
    networks = [{"name": "full precision", **shares[0]}, {"name": "QANN", **shares[1], "agreement": agreement}]
    about = {"bits": 2, "reconstruction_steps": 0, "quantized": {"epochs": 0}, "labeled": full is not None}
    return about | {"networks": networks} | more


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (results(0.9, 0.88, 0.95), ""),
        (results(0.9, 0.87, 0.95), ""),  # 0.9 - 0.87 is a little more than 0.03
        (results(0.9, 0.88, 0.85), "the quantized network predicts another class for 15.0 % of the images: use --rec"),
        (results(0.9, 0.86, 0.95), "loses 4.0 points and predicts another class for 5.0 % of the images"),
        (results(0.9, 0.8, 0.85, reconstruction_steps=9), "of the images: use bits=3"),
        (results(0.9, 0.8, 0.85, reconstruction_steps=9, bits=4), "of the images: train it with quantized.epochs=10"),
        (results(0.9, 0.8, 0.85, reconstruction_steps=9, bits={"*": 2}), "images: train it with quantized.epochs=10"),
        (results(0.9, 0.8, 0.85, quantized={"epochs": 3}), "of the images: train it for more epochs"),
        (results(0.12, 0.1, 0.5), "as good as a guess among 10 classes: check that its weights are loaded"),
        (results(None, None, 0.95), ""),
        (results(None, None, 0.85), "the quantized network predicts another class for 15.0 % of the images"),
        (results(None, None, 0.85, reconstruction_steps=9, bits=4), "of the images: use more --images"),
    ],
)
def test_a_result_that_is_no_good_has_advice(told: dict[str, Any], words: str) -> None:
    advice = of_quantization(told, classes=10)
    assert words in advice
    assert bool(advice) == bool(words)


def test_a_training_that_loses_three_points_has_advice() -> None:
    good, bad = ({"full_precision": {"accuracy": 0.9}, "qann": {"accuracy": share}} for share in (0.88, 0.86))
    assert advice_on_training(good) == ""
    assert "loses 4.0 points: train it for more epochs" in advice_on_training(bad)


def test_a_guess_among_two_classes_is_not_three_of_four() -> None:
    assert "as good as a guess" in of_quantization(results(0.54, 0.54, 1.0), classes=2)
    assert of_quantization(results(0.74, 0.74, 1.0), classes=2) == ""
