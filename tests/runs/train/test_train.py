"""A recipe's run in its folder: never lost, never mixed with another, and told where it comes from."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.problems import instead_of_data
from qffs import models
from qffs.data import load
from qffs.errors import CheckpointError, DataError, Diverged, InvalidArgument, QffsError
from qffs.files import Results
from qffs.graph.trace.trace import trace
from qffs.measurement import batches
from qffs.models.checkpoint import load as load_checkpoint
from qffs.models.checkpoint import save
from qffs.recipes import read, to_yaml
from qffs.recipes.recipe import Recipe
from qffs.runs import inputs
from qffs.runs.provenance import command, commit
from qffs.runs.train import train as run_train
from qffs.train.state import RunState

ROUND = {"epochs": 1, "learning_rate": 0.03, "batch_size": 32}
SAID: dict[str, Any] = {"full_precision": ROUND, "quantized": ROUND, "steps": 4, "device": "cpu"}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits")
    train, test = digits.train.select(torch.arange(120)), digits.test.select(torch.arange(30))
    instead_of_data(monkeypatch, lambda *_, **__: dataclasses.replace(digits, train=train, test=test))
    monkeypatch.setitem(models.MODELS, "digits_net", partial(models.DigitsNet, width=4))


def train(folder: Path, *, resume: bool = False, tensorboard: bool = False, **more: object) -> Results:
    recipe = Recipe.of({**SAID, **more})
    return run_train(recipe, folder, resume=resume, tensorboard=tensorboard, progress=False)


def test_a_run_that_has_ended_is_not_lost_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = train(tmp_path, resume=True)  # nothing to go on from: it begins
    assert read(str(tmp_path / "recipe.yaml")) == Recipe.of(SAID)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InvalidArgument, match="holds a run that has ended: name another --output"):
        train(tmp_path)
    with pytest.raises(InvalidArgument, match=r"the run of another recipe: it differs in quantized\.epochs, seed"):
        train(tmp_path, resume=True, seed=1, quantized=ROUND | {"epochs": 2})
    monkeypatch.setattr("qffs.runs.train.run_inputs", lambda *_, **__: pytest.fail("began to work"))
    assert train(tmp_path, resume=True) == json.loads(json.dumps(results))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_whose_recipe_is_in_the_spelling_of_before_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Diverged):
        train(tmp_path, quantized=ROUND | {"learning_rate": 1e30})
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace("quantized", "quantised").replace("optimizer", "optimiser"))
    with pytest.raises(InvalidArgument, match=r"it differs in quantized\.learning_rate$"):
        train(tmp_path, resume=True)
    with pytest.raises(Diverged):  # it went on: nothing else differs
        train(tmp_path, resume=True, quantized=ROUND | {"learning_rate": 1e30})
    assert "quantised" in path.read_text()


def test_divergence_leaves_the_state_and_the_last_good_network(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"in epoch \d of quantized: .*; the state before is in .*state\.pt"):
        train(tmp_path, quantized=ROUND | {"learning_rate": 1e30, "epochs": 3})
    with pytest.raises(InvalidArgument, match="holds a run that can continue with --resume"):
        train(tmp_path)
    assert (tmp_path / "float" / "model.safetensors").exists()


def test_the_schedule_is_chosen_on_held_out_images(tmp_path: Path) -> None:
    results = train(tmp_path, held_out=0.25, candidates=[1, [0.5, 0.25, 0.25], 4], choose_at=4)
    choices = results["charge_choices"]
    assert [choice["charge_steps"] for choice in choices] == [1, [0.5, 0.25, 0.25], 4]
    best = max(choices, key=lambda choice: choice["held_out"])["charge_steps"]
    expected = [1 / best] * best if isinstance(best, int) else best
    assert results["charge_schedule"] == pytest.approx(expected)
    assert all(round(choice["held_out"] * 30, 6).is_integer() for choice in choices)  # a quarter of 120
    assert [epoch["held_out"] for epoch in results["qann"]["epochs"]] != [None]


def test_figures_of_fewer_test_images(tmp_path: Path) -> None:
    results = train(tmp_path, test_images=7)
    assert results["images"] == 7
    for part in (results["full_precision"], results["qann"], *results["snn"]):
        assert round(part["accuracy"] * 7, 6).is_integer()


def test_the_folder_says_where_the_figures_come_from(tmp_path: Path) -> None:
    train(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seconds"] > 0
    assert run["processes"] == 1
    assert "CPU core" in run["device"]
    assert run["commit"] == commit()
    assert (
        command(["/somewhere/bin/qffs", "train", "digits", "bits={'*': 2}"])
        == """qffs train digits 'bits={'"'"'*'"'"': 2}'"""
    )
    assert command(["/somewhere/qffs/__main__.py", "demo"]) == "qffs demo"


def test_curves_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = train(tmp_path / "run", tensorboard=True, held_out=0.25)
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    told = {tag: curves.Scalars(tag)[0].value for tag in curves.Tags()["scalars"]}
    (epoch,) = results["qann"]["epochs"]
    assert told["quantized/loss"] == pytest.approx(epoch["loss"])
    assert told["quantized/held-out accuracy"] == pytest.approx(epoch["held_out"])
    assert told["quantized/step size/stem.2"] > 0
    assert "full precision/accuracy" in told
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'qffs\[tensorboard\]'"):
        train(tmp_path / "other", tensorboard=True)


def test_curves_that_cannot_be_written_stop_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = train(tmp_path / "whole")
    monkeypatch.setattr(tensorboard.SummaryWriter, "flush", full)
    monkeypatch.setattr(sys, "argv", ["qffs", "train", "digits"])
    with pytest.raises(QffsError, match=r"^TensorBoard's curves could not be written: No space left on device$"):
        train(tmp_path / "run", tensorboard=True)
    monkeypatch.setattr(sys, "argv", ["qffs", "train", "digits", "--resume"])
    assert train(tmp_path / "run", resume=True) == whole  # the epoch was not lost
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]
    assert command == "qffs train digits"  # the command that began the run


def save_but_the_quantized(network: Any, folder: Path, about: Any) -> None:
    if folder.name == "qann":
        raise QffsError("stopped")
    save(network, folder, about)


def test_a_run_goes_on_only_with_its_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = inputs.load_data("digits")
    with monkeypatch.context() as within:
        within.setattr("qffs.runs.train.save", save_but_the_quantized)
        with pytest.raises(QffsError, match="stopped"):
            train(tmp_path)
    exchanged = dataclasses.replace(digits.train, images=digits.train.images.flip(3))  # with the same labels
    with monkeypatch.context() as within:
        instead_of_data(within, lambda *_, **__: dataclasses.replace(digits, train=exchanged))
        with pytest.raises(InvalidArgument, match=r"holds a run on other images or labels than digits$"):
            train(tmp_path, resume=True)
    state = RunState(tmp_path)
    saved = state.read()
    assert saved is not None
    del saved["images"]  # as an earlier version wrote it
    state.write(saved)
    with pytest.warns(UserWarning, match=r"of an earlier version, .*: check yourself that they are those of digits$"):
        train(tmp_path, resume=True)


def test_results_are_shown_only_for_their_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, digits = json.loads(json.dumps(train(tmp_path))), inputs.load_data("digits")

    def again(read: Callable[..., Any]) -> Results:
        with monkeypatch.context() as within:
            instead_of_data(within, read)
            return train(tmp_path, resume=True)

    exchanged = dataclasses.replace(digits.test, images=digits.test.images.flip(3))  # with the same labels
    with pytest.raises(InvalidArgument, match=r"holds a run on other images or labels than digits$"):
        again(lambda *_, **__: dataclasses.replace(digits, test=exchanged))
    with pytest.warns(UserWarning, match=r"earlier run; its images are not here to compare: 'digits' is gone$"):
        assert again(gone) == results
    origin = json.loads((tmp_path / "run.json").read_text())
    assert origin["fingerprints"].keys() == {"data", "images"}
    (tmp_path / "run.json").write_text(json.dumps({**origin, "fingerprints": {}}))  # as an earlier version wrote it
    with pytest.warns(UserWarning, match=r"of an earlier version, .*: check yourself that they are those of digits$"):
        assert train(tmp_path, resume=True) == results


def gone(data: str, *_: object, **__: object) -> None:
    raise DataError(f"{data!r} is gone")


@pytest.mark.slow
def test_a_run_goes_on_although_its_files_have_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = inputs.load_data("digits")
    run, said = tmp_path / "run", {"quantized": ROUND | {"epochs": 2}, "seed": 1}
    with monkeypatch.context() as within:
        within.setattr("qffs.runs.train.save", save_but_the_quantized)
        with pytest.raises(QffsError, match="stopped"):
            train(run, data="images:/old/pictures", **said)
    for other in ("images:/old/others", "cifar10:/old/pictures"):
        with pytest.raises(InvalidArgument, match=r"it differs in data$"):
            train(run, resume=True, data=other, **said)
    moved: dict[str, object] = {"data": "images:new/pictures", "workers": 1, **said}
    mislabeled = dataclasses.replace(digits.train, labels=digits.train.labels.flip(0))
    with monkeypatch.context() as within:
        instead_of_data(within, lambda *_, **__: dataclasses.replace(digits, train=mislabeled))
        with pytest.raises(
            InvalidArgument, match=r"run holds a run on other images or labels than images:new/pictures$"
        ):
            train(run, resume=True, **moved)
    results = train(run, resume=True, **moved)
    assert results == train(tmp_path / "whole", **moved)
    assert read(str(run / "recipe.yaml")).data == "images:new/pictures"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"model": "digits_nett"}, "there is no model 'digits_nett'"),
        ({"augmentation": [{"RandomCrap": {}}]}, "kornia.augmentation has no 'RandomCrap'"),
        ({"tensorboard": True}, r"pip install 'qffs\[tensorboard\]'"),
    ],
)
def test_what_cannot_be_is_told_before_images_are_decoded(
    said: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    instead_of_data(monkeypatch, lambda *_, **__: pytest.fail("began to decode"))
    with pytest.raises(InvalidArgument, match=told):
        train(tmp_path / "run", **said)
    assert not (tmp_path / "run").exists()


def test_files_of_the_user_are_not_lost(tmp_path: Path) -> None:
    own = tmp_path / "recipe.yaml"
    own.write_text("# mine\n" + to_yaml(Recipe.of(SAID)))
    with pytest.raises(InvalidArgument, match=r"holds the run of another recipe: it differs in seed$"):
        train(tmp_path, seed=1)
    for name in ("run.json", "accuracy.png"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InvalidArgument, match=f"holds no run, but a file {name} that a run would replace"):
            train(tmp_path, resume=True)
        (tmp_path / name).unlink()
    train(tmp_path)
    assert own.read_text().startswith("# mine\n")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_damaged_results_are_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"results\.json (cannot be read|holds no results|is damaged)"):
        train(tmp_path, resume=True)


@pytest.mark.slow
def test_fewer_images_are_verified_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path / "usual")["verified"]["images"] == 32
    monkeypatch.setattr(batches, "BATCH_PIXELS", 5 * SAID["steps"] * 8 * 8)
    assert train(tmp_path / "large")["verified"]["images"] == 5


def test_a_file_where_curves_are_to_be_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("torch.utils.tensorboard")
    (tmp_path / "tensorboard").touch()
    with pytest.raises(InvalidArgument, match=r"tensorboard is a file, where a folder is to be written"):
        train(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            {"augmentation": [{"RandomCrop": {"size": [4, 4]}}]},
            r"^digits_net with this augmentation does not run on images of 1 x 4 x 4: ",
        ),
        ({"bits": {"nowhere": 2}}, "nowhere"),
        ({"held_out": 0.001}, "leaves the held-out part empty"),
        ({"test_images": 31}, r"^test_images is 31, but digits has 30$"),
        ({"model_arguments": {"classes": 3}}, "returns .* numbers per image, but the data have 10 classes"),
    ],
)
def test_what_does_not_fit_the_data_is_told_before_they_are_decoded(
    said: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "in_memory", lambda *_, **__: pytest.fail("began to decode"))
    with pytest.raises(InvalidArgument, match=told):
        train(tmp_path / "run", **said)
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_take_the_smaller_images_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ROUND | {"small_share": 1}
    assert train(tmp_path / "run", full_precision=section)["full_precision"]["epochs"]
    monkeypatch.setattr(inputs, "smaller", lambda images: images[..., :4, :4])
    for name in ("full_precision", "quantized"):
        with pytest.raises(
            InvalidArgument, match=r"^digits_net with small_share, in which images are smaller, does not"
        ):
            train(tmp_path / name, **{name: section})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (None, "^the teacher digits_net has random weights: name trained ones with teacher_weights$"),
        (lambda: models.DigitsNet(classes=12), "^the teacher .* returns 12 numbers per image, but .* train 10$"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "^the teacher .* with small_share, in which"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_training(
    make: Callable[[], nn.Module] | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Any] = {"quantized": ROUND | {"distillation": 0.5, "small_share": 1.0}, "teacher": "digits_net"}
    if make is not None:
        save(trace(make(), torch.rand(2, 1, 8, 8)), tmp_path / "teacher")
        said["teacher"] = str(tmp_path / "teacher")
    monkeypatch.setattr(inputs, "in_memory", lambda *_, **__: pytest.fail("began to decode"))
    with pytest.raises(InvalidArgument, match=told):
        train(tmp_path / "run", **said)


def test_a_run_goes_on_only_with_its_teacher(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir()
        torch.save(models.build("digits_net").state_dict(), tmp_path / str(seed) / "w.pt")
    said: dict[str, Any] = {"quantized": ROUND | {"distillation": 0.5, "learning_rate": 1e30}, "teacher": "digits_net"}

    def taught_by(seed: int, resume: bool) -> None:
        train(tmp_path / "run", resume=resume, **said, teacher_weights=str(tmp_path / str(seed) / "w.pt"))

    with pytest.raises(Diverged):  # which leaves a state
        taught_by(0, resume=False)
    with pytest.raises(InvalidArgument, match=r"run holds a run with another teacher$"):
        taught_by(1, resume=True)
    with pytest.raises(Diverged):
        taught_by(0, resume=True)


def test_a_named_teacher_is_distilled(tmp_path: Path) -> None:
    for seed, name in enumerate(("own", "other")):
        torch.manual_seed(seed)
        weights = models.build("digits_net").state_dict()
        torch.save(weights, tmp_path / f"{name}.pt")
    said = {"weights": str(tmp_path / "own.pt"), "full_precision": ROUND | {"epochs": 0}}
    said |= {"quantized": ROUND | {"distillation": 1.0}}

    def taught(by: str) -> Results:
        weights = str(tmp_path / f"{by}.pt")
        return train(tmp_path / f"by_{by}", **said, teacher="digits_net", teacher_weights=weights)

    alone, own, other = train(tmp_path / "alone", **said), taught("own"), taught("other")
    assert own["qann"] == alone["qann"]
    assert other["qann"]["epochs"][0]["loss"] > 1.3 * alone["qann"]["epochs"][0]["loss"]
    assert (other["teacher"], other["teacher_weights"]) == ("digits_net", "other.pt")


def test_wrong_levels_are_lowered_where_the_output_spikes(tmp_path: Path) -> None:
    def wrong(output: int | str, penalty: float) -> float:
        folder = tmp_path / f"{output}_{penalty}"
        train(folder, output=output, quantized=ROUND | {"epochs": 3, "level_penalty": penalty})
        network, images = load_checkpoint(folder / "qann").network, load("digits").test
        with torch.no_grad():
            values = network(images.read(torch.arange(100)).float() / 16)
        return float(values.clamp_min(0).scatter(1, images.labels[:100, None], 0.0).mean())

    assert wrong(3, 0.1) < 0.8 * wrong(3, 0.0)
    assert wrong("analog", 0.1) == wrong("analog", 0.0)


def test_the_command_line_trains(command_line: Callable[..., Any]) -> None:
    said = command_line("train", "digits", "full_precision.epochs=0", "quantized.epochs=0", "steps=3", "device=cpu")
    assert said.code == 0, said.err
    assert "QANN, 2 bit" in said.out
    assert "Wrote runs/digits: results.json" in said.out
    said = command_line("train", "digits", "quantized.epoch=1")
    assert (said.code, said.out) == (2, "")
    assert "quantized.epoch=1: quantized.epoch is no key; did you mean quantized.epochs?" in said.err
