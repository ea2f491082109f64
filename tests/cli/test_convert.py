"""``qffs networks`` and the names of trained networks in the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import qffs
from helpers.command_line import Said
from qffs.data import load
from qffs.models import trained


def test_the_networks_are_listed(command_line: Callable[..., Said]) -> None:
    out = command_line("networks").out
    assert all(name in out for name in trained.names())
    assert "99.55 %" in out
    listed = json.loads(command_line("networks", "--json").out)
    assert [each["name"] for each in listed] == list(trained.names())


def test_the_card_of_one_is_shown(command_line: Callable[..., Said]) -> None:
    out, card = command_line("networks", "digits-2bit").out, trained.card("digits-2bit")
    for words in (card["title"], card["license"], card["source"], card["run"]["commit"], "QANN", "5 to 8"):
        assert words in out
    assert "99.33 %" in command_line("networks", "digits").out
    assert json.loads(command_line("networks", "digits-2bit", "--json").out)["kind"] == "qann"
    said = command_line("networks", "nothing")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("qffs: no trained network 'nothing' comes with qffs; there are ")


def test_a_simulation_gives_the_figures_of_the_card(command_line: Callable[..., Said]) -> None:
    results = json.loads(command_line("simulate", "digits-2bit", "--json").out)
    card = trained.card("digits-2bit")["results"]
    assert results["qann"]["accuracy"] == card["qann"]["accuracy"]
    assert [row["accuracy"] for row in results["snn"]] == [row["accuracy"] for row in card["snn"]]
    assert [row["agreement"] for row in results["snn"]] == [row["agreement"] for row in card["snn"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["noise", "digits-2bit", "--images", "20"], "pre-charge"),
        (["energy", "digits-2bit", "--images", "20"], "spikes per image"),
        (["convert", "digits-2bit", "--charge-steps", "2", "-o", "snn"], "charged over 2 steps"),
        (["export", "digits-2bit", "--to", "hub", "-o", "hub"], "Wrote the snn"),
        (["plan", "digits"], "nothing refused"),
        (["quantize", "digits", "--data", "digits", "--no-reconstruct", "-o", "q"], "Wrote the quantized network"),
    ],
)
def test_a_command_takes_a_name(command_line: Callable[..., Said], words: list[str], told: str) -> None:
    said = command_line(*words)
    assert said.code == 0, said.err
    assert told in said.out


def test_a_hub_folder_of_a_name_shows_its_accuracy_and_license(
    command_line: Callable[..., Said], tmp_path: Path
) -> None:
    command_line("export", "digits-2bit", "--to", "hub", "-o", tmp_path / "hub")
    page = (tmp_path / "hub" / "README.md").read_text()
    assert "| quantized |  | 99.55 |" in page
    assert "## License\n\nApache-2.0, as qffs, trained from random weights.\n" in page
    assert command_line("export", "digits", "--to", "hub", "-o", tmp_path / "float").code == 0
    assert "accuracy (%)" not in (tmp_path / "float" / "README.md").read_text()


def test_a_conversion_of_a_name_has_the_schedule_of_its_card(
    command_line: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "schedule", lambda name: [0.5, 0.5])
    assert command_line("convert", "digits-2bit", "-o", tmp_path / "snn").code == 0
    assert list(qffs.load(tmp_path / "snn").network.schedule.weights) == [0.5, 0.5]
    assert list(qffs.load("digits-2bit").network.schedule.weights) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "digits-2bit"], "digits-2bit holds a network of kind 'qann': name digits, from which it was made"),
        (["compare", "digits-2bit"], "digits-2bit holds a network of kind 'qann': name digits, from which it was made"),
        (["simulate", "digits"], "digits holds a network of kind 'float': simulate takes a spiking one, which qffs"),
        (["compare", "digits-2bits"], "there is digits-2bit"),
        (["simulate", "digits2bit"], "nearest to it: digits-2bit"),
        (["train", "digits", "model=digits", "model_arguments.width=3"], "digits names a checkpoint: its network is"),
    ],
)
def test_a_name_of_another_kind_is_told(command_line: Callable[..., Said], words: list[str], told: str) -> None:
    said = command_line(*words)
    assert said.code == 2
    assert told in said.err


# qffs quantize


def test_quantize_says_before_and_after_and_by_step(command_line: Callable[..., Said]) -> None:
    words = ("digits", "--data", "digits", "bits=1", "--images", 200, "reconstruction_steps=60", "-o", "q")
    told = json.loads(command_line("quantize", *words, "--json").out)
    assert (told["calibration_images"], told["reconstruction_steps"], told["labeled"]) == (200, 60, True)
    names = ["full precision", "QANN, calibrated", "QANN, reconstructed"]
    assert [network["name"] for network in told["networks"]] == names
    full, before, after = told["networks"]
    assert full["accuracy"] == trained.card("digits")["results"]["full_precision"]["accuracy"]
    assert full["agreement"] == 1 > after["agreement"] > before["agreement"]
    last = told["snn"][-1]
    assert (last["steps"], last["accuracy"], last["agreement"]) == (8, after["accuracy"], after["agreement"])
    said = command_line("quantize", *words)
    assert all(name in said.out for name in (*names, f"{100 * after['accuracy']:.2f} %", "SNN"))
    assert "Wrote the quantized network to q; qffs convert makes a spiking network of it." in said.out
    assert command_line("convert", "q", "-o", "s").code == 0


def test_quantize_needs_no_labels(command_line: Callable[..., Said], tmp_path: Path) -> None:
    digits = load("digits")
    (tmp_path / "pictures").mkdir()
    for number in range(64):
        gray = Image.fromarray((digits.train.images[number, 0].numpy() * 15).astype("uint8"))
        gray.convert("RGB").save(tmp_path / "pictures" / f"{number:02}.png")
    words = ("cifar_resnet20", "--data", "pictures", "--no-reconstruct", "size=32", "-o", "q")
    told = json.loads(command_line("quantize", *words, "--json").out)
    assert (told["labeled"], told["images"]) == (False, 8)
    assert all("accuracy" not in each for each in (*told["networks"], *told["snn"]))
    assert all(0 <= row["agreement"] <= 1 for row in told["snn"])
    said = command_line("quantize", *words)
    assert "accuracy" not in said.out
    assert "agreement" in said.out
    said = command_line("quantize", *words, "quantized.epochs=1")
    assert (said.code, said.out) == (2, "")
    assert "pictures has no labels to train with: leave quantized.epochs out" in said.err


def test_a_quantization_that_is_no_good_has_advice(command_line: Callable[..., Said]) -> None:
    said = command_line("quantize", "digits_net", "--data", "digits", "--no-reconstruct", "-o", "q")
    assert "% of the images: use --reconstruct\n" in said.err
