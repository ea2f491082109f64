"""Whole jobs on a few digits: what they write, that they repeat, and that they stop before they write."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.problems import instead_of_data
from qffs import models
from qffs.data import Dataset, Images
from qffs.data import load as load_data
from qffs.errors import CheckpointError, Diverged, InvalidArgument, QffsError
from qffs.files import Results
from qffs.models.checkpoint import load, save
from qffs.recipes.recipe import Recipe
from qffs.runs.convert import convert
from qffs.runs.inputs import device_of
from qffs.runs.measure import Trial
from qffs.runs.measure import simulate as run_simulate
from qffs.runs.quantize import quantize as run_quantize
from qffs.runs.train import demo as run_demo
from qffs.runs.train import train
from qffs.train import reconstruct as reconstruction


def simulate(
    checkpoint: Path,
    data: str,
    steps: int,
    qann: Path | None,
    device: str,
    progress: bool,
    seed: int = 0,
    size: int | None = None,
) -> Results:
    return run_simulate(
        Trial(checkpoint, data=data, size=size, steps=steps, qann=qann, device=device, seed=seed, progress=progress)
    )


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A small network and few digits.

    "color" are the same in three channels, "letters" have one class more, and "other labels" others in training.
    """
    digits = load_data("digits")
    train = Images(digits.train.images[:64], digits.train.labels[:64])
    few = dataclasses.replace(digits, train=train, test=Images(digits.test.images[:30], digits.test.labels[:30]))

    def read(spec: str, size: int | None = None, **_: object) -> Dataset:
        if size is not None:
            return dataclasses.replace(few, name=f"{spec} of {size}")
        if spec.startswith("color"):
            times = 4 if spec == "color 32" else 1
            larger = [(part.images.repeat(1, 3, times, times), part.labels) for part in (few.train, few.test)]
            parts = [Images(*each) for each in larger]
            return dataclasses.replace(
                few, name="color", train=parts[0], test=parts[1], mean=(0.0,) * 3, std=(1.0,) * 3
            )
        if spec == "letters":
            return dataclasses.replace(few, name="letters", classes=(*few.classes, "a"))
        if spec == "other labels":
            return dataclasses.replace(few, train=Images(few.train.images, few.train.labels.flip(0)))
        return few

    instead_of_data(monkeypatch, read)
    monkeypatch.setitem(models.MODELS, "digits_net", partial(models.DigitsNet, width=4))
    return few


def recipe(float_epochs: int = 1, epochs: int = 1, **more: Any) -> Recipe:
    both = {key: more.pop(key, value) for key, value in (("learning_rate", 0.03), ("batch_size", 32))}
    stages = {"full_precision": {"epochs": float_epochs, **both}, "quantized": {"epochs": epochs, **both}}
    return Recipe.of({"steps": 4, "device": "cpu", **stages, **more})


def demo(told: Recipe, folder: Path) -> Results:
    return run_demo(told, folder, progress=False)


def quantize(told: Recipe, folder: Path) -> Results:
    return run_quantize(told, folder, progress=False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_demo_writes_everything_and_twice_the_same_bit_for_bit(tmp_path: Path) -> None:
    results = demo(recipe(), tmp_path / "one")
    torch.rand(7)
    demo(recipe(), tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    names = {f"{kind}/{name}" for kind in ("float", "qann", "snn") for name in ("config.json", "model.safetensors")}
    assert set(one) == names | {"results.json", "run.json", "recipe.yaml", "accuracy.png"}
    assert all(one[name] == two[name] for name in {"results.json", *names})

    assert json.loads(one["results.json"]) == json.loads(json.dumps(results))
    assert [row["steps"] for row in results["snn"]] == [1, 2, 3, 4]
    assert results["images"] == 30
    assert len(results["full_precision"]["epochs"]) == 1
    assert results["charge_schedule"] == pytest.approx([1 / 3] * 3)
    assert results["verified"]["images"] == 32
    for kind in ("float", "qann", "snn"):
        assert load(tmp_path / "one" / kind).kind == kind
        assert load(tmp_path / "one" / kind).about["data"] == "digits"

    # The single steps on the demo's checkpoints give the demo's numbers.
    folder = tmp_path / "one"
    convert(folder / "qann", tmp_path / "snn", None, device="cpu")
    assert files(tmp_path / "snn") == files(folder / "snn")
    simulated = simulate(folder / "snn", "digits", 4, folder / "qann", "cpu", False)
    assert simulated["snn"] == results["snn"]
    assert simulated["layers"] == results["layers"]
    assert simulated["qann"]["accuracy"] == results["qann"]["accuracy"]


def test_the_demo_of_mixed_precision_says_what_it_used(tmp_path: Path) -> None:
    bits = {"stem.2": "full", "block1.*": 1, "*": 2}
    results = demo(recipe(bits=bits, per_channel=True, output=3, charge_steps=2), tmp_path / "one")
    written = json.loads((tmp_path / "one" / "results.json").read_text())
    for told in (results, written, load(tmp_path / "one" / "snn").about):
        assert list(told["bits"].items()) == list(bits.items())
        assert told["per_channel"] is True
    assert [row["layer"] for row in results["layers"]][-1] == "output_quantizer"
    assert len(results["layers"]) == 5
    told = convert(tmp_path / "one" / "qann", tmp_path / "snn", 2, device="cpu")
    assert list(told["highest_level"].values()) == [1, 1, 3, 3, 7]
    simulated = simulate(tmp_path / "snn", "digits", 4, tmp_path / "one" / "qann", "cpu", False)
    assert simulated["snn"] == results["snn"]


def test_one_channels_other_step_size_is_another_network(tmp_path: Path) -> None:
    quantize(recipe(epochs=0, per_channel=True), tmp_path / "qann")
    convert(tmp_path / "qann", tmp_path / "snn", None, device="cpu")
    simulate(tmp_path / "snn", "digits", 4, tmp_path / "qann", "cpu", False)
    other = load(tmp_path / "qann").network
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name.endswith("step_size"))[1].mul_(1.01)
    save(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match="was not converted from"):
        simulate(tmp_path / "snn", "digits", 4, tmp_path / "other", "cpu", False)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    seeds = {name: quantize(recipe(epochs=0, seed=seed), tmp_path / name) for name, seed in (("a", 1), ("b", 2))}
    assert seeds["a"]["seed"] == 1
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert not torch.equal(a["classify.weight"], b["classify.weight"])


def test_quantize_starts_from_weights_and_says_what_it_did(tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = models.build("digits_net").state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    told = run_quantize(
        recipe(weights=str(tmp_path / "w.safetensors"), epochs=0, bits=3, steps=8, output=4), tmp_path / "q"
    )
    assert told["loss"] == []
    assert [row["name"] for row in told["networks"]] == ["full precision", "QANN, calibrated"]
    assert told["networks"][0]["agreement"] == 1
    assert "networks" not in load(tmp_path / "q").about
    assert told["weights"] == "w.safetensors"
    saved = load_file(tmp_path / "q" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights.items())
    highest = [entry["highest"] for entry in json.loads((tmp_path / "q" / "config.json").read_text())["network"][
        "modules"].values() if entry["type"] == "Quantizer"]  # fmt: skip
    assert sorted(highest) == [7, 7, 7, 7, 7, 15]


def test_reconstruction_needs_no_epoch_and_takes_the_calibration_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []

    def reconstruct(qann: Any, model: Any, batches: Any, **more: Any) -> Any:
        images.append(sum(map(len, batches)))
        return real(qann, model, batches, **more)

    real = reconstruction.reconstruct
    monkeypatch.setattr(reconstruction, "reconstruct", reconstruct)
    told = {"bits": 1, "epochs": 0, "calibration_images": 40}
    plain = quantize(recipe(**told), tmp_path / "plain")
    again = quantize(recipe(**told, reconstruction_steps=30), tmp_path / "again")
    assert images == [40]
    assert again["reconstruction_steps"] == 30
    assert files(tmp_path / "plain") != files(tmp_path / "again")
    assert [row["name"] for row in again["networks"]][1:] == ["QANN, calibrated", "QANN, reconstructed"]
    assert plain["networks"] == again["networks"][:2]
    assert again["networks"][1] != again["networks"][2] | {"name": "QANN, calibrated"}
    train(recipe(epochs=1, float_epochs=0, reconstruction_steps=2), tmp_path / "run", progress=False)
    assert len(images) == 2


def test_labels_never_enter_a_reconstruction(tmp_path: Path) -> None:
    told = {"bits": 1, "epochs": 0, "float_epochs": 0, "reconstruction_steps": 20}
    results = {data: quantize(recipe(data=data, **told), tmp_path / data) for data in ("digits", "other labels")}
    weights = [files(tmp_path / data)["model.safetensors"] for data in results]
    assert weights[0] == weights[1]
    assert results["digits"]["networks"] == results["other labels"]["networks"]
    for data in results:  # whereas they enter a training
        quantize(recipe(data=data, **told | {"epochs": 1}), tmp_path / f"{data} trained")
    trained = [files(tmp_path / f"{data} trained")["model.safetensors"] for data in results]
    assert trained[0] != trained[1]


def test_divergence_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = quantize(recipe(), tmp_path / "q")
    before = files(tmp_path / "q")
    finite, calls = torch.nn.functional.cross_entropy, []

    def nan(*args: Any, **more: Any) -> torch.Tensor:
        calls.append(1)
        return finite(*args, **more) * float("nan")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", nan)
    with pytest.raises(Diverged, match="the loss became nan in epoch 1 of quantized"):
        quantize(recipe(), tmp_path / "q")
    assert len(calls) == 1
    assert len(good["loss"]) == 1
    assert files(tmp_path / "q") == before


class TwoOutputs(models.DigitsNet):
    """In training a network that returns more than its logits, as those of torchvision with auxiliary heads do."""

    def __init__(self) -> None:
        super().__init__(width=4)

    def forward(self, x: torch.Tensor) -> Any:
        logits = super().forward(x)
        return (logits, logits) if self.training else logits


def test_what_is_trained_is_what_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "two", TwoOutputs)
    results = [demo(recipe(model=name), tmp_path / name) for name in ("two", "digits_net")]
    assert results[0]["snn"] == results[1]["snn"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_the_whole_way_from_another_librarys_network(tmp_path: Path) -> None:
    results = demo(recipe(model="torchvision:squeezenet1_1", data="color 32", float_epochs=0, epochs=0), tmp_path)
    assert results["model"] == "torchvision:squeezenet1_1"
    assert load(tmp_path / "snn").about["model"] == "torchvision:squeezenet1_1"


# What is refused, before anything is written


@pytest.fixture
def snn(tmp_path: Path) -> Path:
    quantize(recipe(epochs=0), tmp_path / "in" / "qann")
    convert(tmp_path / "in" / "qann", tmp_path / "in" / "snn", None, device="cpu")
    return tmp_path / "in" / "snn"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits must be a whole number from 1 to 8, not 0"),
        ({"bits": 9}, "bits must be a whole number from 1 to 8, not 9"),
        ({"bits": {"*": 9}, "charge_steps": 3}, "bits must be a whole number from 1 to 8, not 9"),
        ({"bits": 9, "charge_steps": 3}, "bits must be a whole number from 1 to 8, not 9"),
        ({"bits": {"stem.2": 1}}, "no pattern matches block1.relu"),
        ({"bits": {"*": "full"}}, "every activation is to stay"),
        ({"output": 9}, "output must be a whole number of at least 1 and at most 8, or analog, not 9"),
        ({"steps": 2}, "steps must be at least the 3 charge steps"),
        ({"charge_steps": 5}, "steps must be at least the 5 charge steps"),
        ({"charge_steps": 0}, "charge steps must be a whole number of at least 1, not 0"),
        ({"charge_steps": [0.5, 0.6]}, "charge weights must add up to 1"),
        ({"charge_steps": [float("nan"), 1.0]}, "charge_steps must be a whole number, a list of numbers"),
        ({"epochs": -1}, "quantized.epochs must be a whole number of at least 0, not -1"),
        ({"float_epochs": -1}, "full_precision.epochs must be a whole number of at least 0, not -1"),
        ({"learning_rate": 0.0}, "quantized.learning_rate must be a number above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, not NaN"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 2**31}, r"batch_size must be a whole number of at least 1 and below 2\^31, not 2147483648"),
        ({"steps": 10**9}, "at most 1,048,576"),
        ({"charge_steps": 10**30}, "at most 1,048,576"),
        ({"charge_steps": "1"}, "charge_steps must be"),
        ({"seed": 2**64}, "seed must be a whole number of at least 0"),
        ({"device": "tpu"}, 'device must be auto, cpu or cuda, not "tpu"'),
        ({"device": "cuda"}, "there is no CUDA device here: name cpu instead"),
        ({"model": "vgg"}, "there is no model 'vgg'; there are digits_net"),
        ({"weights": "none.safetensors"}, "there is no weight file none.safetensors"),
        ({"data": "color"}, "does not run on an example of shape"),
        ({"data": "letters"}, r"digits_net returns \[10\] numbers per image, but the data have 11 classes"),
    ],
    ids=str,
)
def test_a_task_that_cannot_work_writes_nothing(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QffsError, match=message):
        demo(recipe(**settings), tmp_path / "out")
    if "float_epochs" not in settings:
        with pytest.raises(QffsError, match=message):
            quantize(recipe(**settings), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [0, 9, {}, {"*": 9}, {"a": "some", "*": 2}], ids=str)
def test_impossible_bits_are_seen_before_a_file_is_read(bits: Any) -> None:
    with pytest.raises(InvalidArgument, match="bits"):
        recipe(bits=bits, charge_steps=3)
    recipe(bits={"*": "full"}, output=3, steps=7)


def test_weights_that_do_not_fit_or_are_not_finite_write_nothing(tmp_path: Path) -> None:
    weights = models.build("digits_net").state_dict()
    for name, change, message in (
        ("shape", {"classify.bias": torch.zeros(3)}, r"classify\.bias has shape \(3,\) in the file and \(10,\)"),
        ("nan", {"classify.bias": torch.full((10,), float("nan"))}, r"NaN or infinity in classify\.bias"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file(weights | change, path)
        with pytest.raises(CheckpointError, match=message):
            quantize(recipe(weights=str(path), epochs=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    instead_of_data(monkeypatch, lambda *_, **__: pytest.fail("began to work"))
    for run in (demo, quantize):
        with pytest.raises(CheckpointError, match="file"):
            run(recipe(), tmp_path / "file")
    (tmp_path / "run" / "snn").mkdir(parents=True)
    (tmp_path / "run" / "snn" / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="snn exists and holds something else"):
        demo(recipe(), tmp_path / "run")
    assert set(files(tmp_path)) == {"file", "run/snn/thesis.tex"}


@pytest.mark.parametrize("name", ["results.json", "accuracy.png"])
def test_a_folder_in_the_place_of_a_result_is_found_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    instead_of_data(monkeypatch, lambda *_, **__: pytest.fail("began to work"))
    with pytest.raises(InvalidArgument, match=f"{name} is a folder"):
        demo(recipe(), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_folder_that_may_not_be_written_to_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_data(monkeypatch, lambda *_, **__: pytest.fail("began to work"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for names in ((), ("float", "qann", "snn")):
        for each in names:
            (tmp_path / each).mkdir()
        with pytest.raises(CheckpointError, match="no folder that may be written to"):
            demo(recipe(), tmp_path)


def test_the_size_is_handed_on_and_written_down(tmp_path: Path) -> None:
    told = demo(recipe(data="images:x", size=8, float_epochs=0, epochs=0), tmp_path / "d")
    assert (told["data"], told["size"]) == ("images:x of 8", 8)
    told = quantize(recipe(data="images:x", size=9, epochs=0), tmp_path / "q")
    assert (told["data"], told["size"]) == ("images:x of 9", 9)
    assert load(tmp_path / "q").about["size"] == 9
    told = simulate(tmp_path / "d" / "snn", "images:x", 4, None, "cpu", False, size=7)
    assert told["data"] == "images:x of 7"


def test_convert_copes_with_any_notes_beside_the_network(snn: Path, tmp_path: Path) -> None:
    config = snn.parent / "qann" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"about": {"network": 1, "folder": 2}}))
    assert convert(snn.parent / "qann", tmp_path / "out", None, device="cpu")["network"] == 1
    assert load(tmp_path / "out").about == {"network": 1, "folder": 2}


def test_convert_takes_a_quantized_network_and_does_not_replace_it(snn: Path, tmp_path: Path) -> None:
    qann = snn.parent / "qann"
    before = files(tmp_path)
    for run, message in (
        (lambda: convert(snn, tmp_path / "out", None), "of kind 'snn': convert takes a quantized one"),
        (lambda: convert(tmp_path / "none", tmp_path / "out", None), "none is not a checkpoint"),
        (lambda: convert(qann, qann, None), "would replace the quantized one"),
        (lambda: convert(qann, qann / "a" / "b", None), "lies inside the checkpoint .* name another folder"),
        (lambda: convert(qann, qann / "x" / ".." / "y", None), "lies inside the checkpoint"),
        (lambda: convert(qann, tmp_path / "out", [0.5, 0.6]), "charge weights must add up to 1"),
        (lambda: convert(qann, tmp_path / "out", 3, device="tpu"), "the device must be"),
        (lambda: convert(qann, tmp_path / "out", 3, device="cpu", seed=-1), "the seed must be"),
        (lambda: convert(qann, snn.parent, 3), "holds something else"),
    ):
        with pytest.raises(QffsError, match=message):
            run()
    assert files(tmp_path) == before
    told = convert(qann, snn, [0.5, 0.25, 0.25])
    assert told["charge_schedule"] == [0.5, 0.25, 0.25]
    assert set(told["highest_level"].values()) == {3}


def test_simulate_refuses_what_does_not_belong_together(snn: Path) -> None:
    qann = snn.parent / "qann"
    for arguments, message in (
        (
            (qann, "digits", 4, None, "cpu", False),
            "of kind 'qann': simulate takes a spiking one, which qffs convert makes",
        ),
        ((snn, "digits", 4, snn, "cpu", False), "of kind 'snn': --qann takes a quantized one"),
        ((snn, "digits", 2, None, "cpu", False), "at least as many steps as the 3 charge steps"),
        ((snn, "color", 4, None, "cpu", False), r"snn does not run on images of 3 x 8 x 8"),
        ((snn, "letters", 4, None, "cpu", False), r"snn returns \[10\] numbers per image, but the data have 11"),
        ((snn, "digits", 4, None, "cpu", False, -1), "the seed must be"),
    ):
        with pytest.raises(QffsError, match=message):
            simulate(*arguments)
    assert "qann" not in simulate(snn, "digits", 4, None, "cpu", False)


def test_simulate_refuses_another_networks_qann(snn: Path, tmp_path: Path) -> None:
    other = load(snn.parent / "qann").network
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name.endswith("step_size")).mul_(1.01)
    save(other, tmp_path / "other")
    with pytest.raises(CheckpointError, match="was not converted from"):
        simulate(snn, "digits", 4, tmp_path / "other", "cpu", False)
    assert simulate(snn, "digits", 4, snn.parent / "qann", "cpu", False)["qann"]["accuracy"] >= 0


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)  # noqa: B023
        assert device_of("auto") == torch.device(name)
        assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(InvalidArgument):
        device_of("cuda")
