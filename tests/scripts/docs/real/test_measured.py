"""What is measured of a network: the figures of the library's own functions, on the chosen images."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from real.measured import Reconstruction, measured
from real.subject import Subject
from torch import nn

import qffs
from qffs.data import Images


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 6, 6), dtype=torch.uint8)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)]
    test = Images(images[:20], torch.arange(20) % 5)
    return Subject(nn.Sequential(*layers).eval(), "any", images[20:], test, lambda pixels: pixels.float() / 255)


def test_a_classifier_is_measured_at_each_number_of_bits(subject: Subject) -> None:
    results = measured(subject, [2, 3])
    with torch.no_grad():
        right = subject.network(subject.normalize(subject.test.read(torch.arange(20)))).argmax(1) == subject.test.labels
    assert results["full_precision"]["accuracy"] == int(right.sum()) / 20
    assert [results[key] for key in ("images", "calibration_images", "energy_images")] == [20, 4, 16]
    assert results["shape"] == [3, 6, 6]
    for bits, entry in zip((2, 3), results["quantized"], strict=True):
        assert entry["bits"] == bits
        assert entry["charge_steps"] == 2**bits - 1
        assert entry["neurons"] == 4 * 16 + 4 * 4
        assert len(entry["snn"]) == entry["settled"] >= entry["charge_steps"]
        assert entry["snn"][-1]["agreement"] == 1
        assert entry["snn"][-1]["accuracy"] == entry["qann"]["accuracy"]
        assert 0 < entry["energy_pj"]["SNN"] == pytest.approx(entry["spiking_pj"][-1])


def test_what_a_calibration_gives_is_what_is_measured(subject: Subject) -> None:
    (entry,) = measured(subject, [2])["quantized"]
    qann = qffs.quantize(subject.network, 2, example=subject.normalize(subject.calibration))
    qffs.calibrate(qann, [subject.normalize(subject.calibration)]).eval()
    result = qffs.measure(qffs.to_spiking(qann), subject.test, subject.normalize, 12, qann=qann, progress=False)
    assert entry["qann"]["accuracy"] == result.qann_accuracy
    assert [row["accuracy"] for row in entry["snn"]] == list(result.accuracy[: len(entry["snn"])])
    assert entry["snn"][-1]["spikes_per_image"] == result.spikes_per_image[-1]


def test_a_reconstruction_is_measured_beside_the_calibration(subject: Subject) -> None:
    images = torch.randint(0, 256, (64, 3, 6, 6), dtype=torch.uint8)  # enough to gain something on those held out
    subject = dataclasses.replace(subject, calibration=images)
    for name, parameter in subject.network.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)  # with them, the outputs hardly depend on the image
    (plain,), (again,) = (
        measured(subject, [1], reconstruction=Reconstruction(steps))["quantized"] for steps in (0, 100)
    )
    assert again["calibrated"] == plain["qann"]
    assert (again["steps"], again["method"], "steps" in plain) == (100, "output", False)
    assert again["reconstruction_seconds"] > 0
    assert again["snn"][-1]["accuracy"] == again["qann"]["accuracy"]
    assert again["snn"] != plain["snn"]


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_steps_of_a_reconstruction_can_be_in_bfloat16(
    bfloat16: bool, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    types: list[torch.dtype] = []

    def reconstruct(qann: nn.Module, *_: Any, **__: Any) -> nn.Module:
        types.append(qann(subject.normalize(subject.calibration)).dtype)
        return qann

    monkeypatch.setattr(qffs, "reconstruct", reconstruct)
    (entry,) = measured(subject, [1], reconstruction=Reconstruction(30, bfloat16))["quantized"]
    assert entry["bfloat16"] == bfloat16
    assert types == [torch.bfloat16 if bfloat16 else torch.float32]


def test_the_networks_of_a_classifier_compute_in_the_precision_that_is_chosen(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    types: list[torch.dtype] = []
    original = qffs.measure

    def measure(snn: qffs.SpikingNetwork, *arguments: Any, qann: nn.Module, **options: Any) -> qffs.Measurement:
        types.extend([snn.empty_like.dtype, next(qann.parameters()).dtype])
        return original(snn, *arguments, qann=qann, **options)

    monkeypatch.setattr(qffs, "measure", measure)
    assert measured(subject, [2])["precision"] == "float32"
    assert measured(subject, [2], "float64")["precision"] == "float64"
    assert types == [torch.float32, torch.float32, torch.float64, torch.float64]


def test_a_network_that_cannot_be_converted_is_told_with_the_reason(subject: Subject) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    (entry,) = measured(dataclasses.replace(subject, network=network), [2])["quantized"]
    assert entry["bits"] == 2
    assert entry["reason"].startswith("NothingToQuantize: nothing would be quantized")
