"""The folder of a run: nothing of others is replaced, two runs are never mixed, and one process writes at a time."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.problems import instead_of_data
from qffs import models
from qffs.data import load as load_data
from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.files import Results
from qffs.models.checkpoint import load, save
from qffs.recipes import read, to_yaml
from qffs.recipes.recipe import Recipe
from qffs.runs import inputs
from qffs.runs import train as runs_train
from qffs.runs.convert import convert
from qffs.runs.folder import REPORTED, reserved
from qffs.runs.quantize import quantize
from qffs.runs.report import report
from qffs.runs.train import demo, train
from qffs.studies.compare import compare
from qffs.studies.paper.make import make

ROUND = {"epochs": 1, "learning_rate": 0.03, "batch_size": 32}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_data("digits")
    parts = digits.train.select(torch.arange(64)), digits.test.select(torch.arange(30))
    instead_of_data(monkeypatch, lambda *_, **__: dataclasses.replace(digits, train=parts[0], test=parts[1]))
    monkeypatch.setitem(models.MODELS, "digits_net", partial(models.DigitsNet, width=4))


def recipe(**more: Any) -> Recipe:
    return Recipe.of({"steps": 16, "device": "cpu", "full_precision": ROUND, "quantized": ROUND, **more})


def run_demo(folder: Path, **more: Any) -> Results:
    return demo(recipe(**more), folder, progress=False)


def run_train(folder: Path, *, resume: bool = False, **more: Any) -> Results:
    return train(recipe(**more), folder, resume=resume, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(of: Callable[[], object], message: str, folder: Path) -> None:
    """Check that a call is refused with a message, and that the folder is as it was."""
    before = contents(folder)
    with pytest.raises((InvalidArgument, CheckpointError), match=message):
        of()
    assert contents(folder) == before


class Stop(BaseException):
    """The end of a process at this point."""


def stopped(monkeypatch: pytest.MonkeyPatch, name: str, of: Callable[[], object]) -> None:
    """Run something until it saves the checkpoint of this name."""

    def saved(network: Any, folder: Path, about: Any) -> None:
        if folder.name == name:
            raise Stop
        save(network, folder, about)

    with monkeypatch.context() as within:
        within.setattr(runs_train, "save", saved)
        with pytest.raises(Stop):
            of()


# Two runs are never mixed


@pytest.mark.parametrize(("name", "there"), [("float", []), ("qann", ["float"]), ("snn", ["float", "qann"])])
def test_a_demo_that_is_stopped_leaves_nothing_of_the_demo_before(
    name: str, there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_demo(tmp_path)
    for file, (begins, *contains) in REPORTED.items():
        (tmp_path / file).write_bytes(b" ".join([begins, *contains]))
    (tmp_path / "notes.txt").write_text("mine")
    stopped(monkeypatch, name, lambda: run_demo(tmp_path, bits=3, seed=7))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*there, "notes.txt", "recipe.yaml"])
    assert all(load(tmp_path / each).about["bits"] == 3 for each in there)
    told = read(str(tmp_path / "recipe.yaml"))
    results = train(told, tmp_path, resume=True, progress=False)
    assert (results["bits"], results["seed"]) == (3, 7)
    refused(lambda: run_demo(tmp_path), "holds a run of qffs train, which a demo does not replace", tmp_path)


def test_the_results_are_removed_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_demo(tmp_path)
    with monkeypatch.context() as within:
        within.setattr("qffs.runs.folder.remove_folder", lambda _: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run_demo(tmp_path, bits=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float", "qann", "recipe.yaml", "snn"]
    assert run_demo(tmp_path, bits=4)["bits"] == 4


def test_a_demo_that_cannot_begin_leaves_the_one_before(tmp_path: Path) -> None:
    run_demo(tmp_path)
    refused(lambda: run_demo(tmp_path, augmentation=[{"RandomCrap": {}}]), "has no 'RandomCrap'", tmp_path)


def test_results_of_another_recipe_are_not_shown(tmp_path: Path) -> None:
    """An earlier version left the results of one demo beside the recipe of another."""
    run_demo(tmp_path)
    other = read(str(tmp_path / "recipe.yaml")).model_copy(update={"seed": 7})
    (tmp_path / "recipe.yaml").write_text(to_yaml(other))
    said = r"results\.json holds the results of another recipe: it differs in seed$"
    refused(lambda: train(other, tmp_path, resume=True, progress=False), said, tmp_path)
    refused(lambda: report(tmp_path, progress=False), said, tmp_path)


@pytest.mark.parametrize("more", [{}, {"bits": {"*": 3}, "output": 4, "candidates": [[0.5, 0.5]], "held_out": 0.2}])
def test_results_are_those_of_their_own_recipe(more: dict[str, Any], tmp_path: Path) -> None:
    results = run_train(tmp_path, **more)
    assert run_train(tmp_path, resume=True, **more) == json.loads(json.dumps(results))


# Nothing of others is replaced


def test_a_demo_replaces_a_demo_and_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_demo(tmp_path / "demo")
    assert run_demo(tmp_path / "demo", seed=1)["seed"] == 1
    stopped(monkeypatch, "qann", lambda: run_train(tmp_path / "train"))
    said = "holds a run of qffs train, which a demo does not replace: name another --output"
    refused(lambda: run_demo(tmp_path / "train"), said, tmp_path)
    run_train(tmp_path / "train", resume=True)
    refused(lambda: run_demo(tmp_path / "train"), said, tmp_path)
    path = tmp_path / "train" / "run.json"
    path.write_text(json.dumps({"command": "qffs train digits -o train"}))  # as earlier versions wrote it
    refused(lambda: run_demo(tmp_path / "train"), said, tmp_path)
    path.write_text(json.dumps({"command": "qffs demo"}))
    run_demo(tmp_path / "train")


@pytest.mark.parametrize("run", [run_demo, run_train])
@pytest.mark.parametrize("name", ["results.json", "accuracy.png", "run.json", "float", "qann", "snn", "recipe.yaml"])
def test_a_file_that_no_run_wrote_is_not_replaced(name: str, run: Callable[[Path], object], tmp_path: Path) -> None:
    if name in {"float", "qann", "snn"}:
        run_demo(tmp_path / "aside")
        (tmp_path / "aside" / name).rename(tmp_path / name)
    else:
        (tmp_path / name).write_text("# mine\n" + to_yaml(recipe(seed=1)) if name == "recipe.yaml" else "{}")
    refused(
        lambda: run(tmp_path), "holds no run|holds no results|holds a run that has|another recipe|by a run", tmp_path
    )


def test_the_checkpoint_of_another_recipe_beside_a_users_own_is_not_replaced(tmp_path: Path) -> None:
    run_demo(tmp_path / "aside", seed=3)
    (tmp_path / "aside" / "snn").rename(tmp_path / "snn")
    (tmp_path / "recipe.yaml").write_text("# mine\n" + to_yaml(recipe()))
    refused(lambda: run_train(tmp_path), "holds no run, but a checkpoint snn", tmp_path)


def test_a_run_does_not_replace_its_own_input(tmp_path: Path) -> None:
    run_demo(tmp_path)
    for weights in ("float", "float/model.safetensors"):
        said = f"float would replace {re.escape(str(tmp_path / weights))}, which is read"
        refused(lambda: run_demo(tmp_path, weights=str(tmp_path / weights)), said, tmp_path)  # noqa: B023
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path / "float")
    refused(lambda: run_demo(tmp_path, model=str(link)), "which is read", tmp_path)
    refused(lambda: run_train(tmp_path, weights=str(link)), "which is read", tmp_path)


def test_a_checkpoint_is_replaced_only_by_one_of_its_kind(tmp_path: Path) -> None:
    run, told = tmp_path / "run", recipe(full_precision={**ROUND, "epochs": 0}, quantized={**ROUND, "epochs": 0})
    run_demo(run)

    def to(folder: Path, **more: Any) -> Callable[[], object]:
        return lambda: quantize(told.model_copy(update=more), folder, progress=False)

    to(tmp_path / "mine")()
    to(tmp_path / "mine", bits=3)()
    assert load(tmp_path / "mine").about["bits"] == 3
    for _ in range(2):
        convert(tmp_path / "mine", tmp_path / "spiking", None)
    refused(
        lambda: convert(run / "qann", tmp_path / "mine", None), "holds a network of kind 'qann', not 'snn'", tmp_path
    )
    refused(to(tmp_path / "spiking"), "holds a network of kind 'snn', not 'qann'", tmp_path)
    refused(to(run / "qann"), "qann belongs to the run in .*run: name another output", tmp_path)
    refused(lambda: convert(run / "qann", run / "snn", 5), "snn belongs to the run in .*run", tmp_path)
    refused(to(run / "float", model=str(run / "float")), "float would replace .*float, which is read", tmp_path)
    refused(to(run / "float" / "q", model=str(run / "float")), "q would replace .*float, which is read", tmp_path)
    save(load(run / "float").network, tmp_path / "w")  # type: ignore[arg-type]
    refused(to(tmp_path / "w", weights=str(tmp_path / "w" / "model.safetensors")), "w would replace", tmp_path)
    refused(to(tmp_path / "w"), "holds a network of kind 'float', not 'qann'", tmp_path)


# One process at a time


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("demo", run_demo),
        ("train", run_train),
        ("resume", partial(run_train, resume=True)),
        ("compare", lambda folder: compare(recipe(), folder, ["qffs"], [4], progress=False)),
        ("paper", lambda folder: make("fig6", recipe(), folder, progress=False)),
    ],
)
def test_a_folder_in_use_is_refused(name: str, of: Callable[[Path], object], tmp_path: Path) -> None:
    with reserved(tmp_path / "run", f"qffs {name}"):
        refused(lambda: of(tmp_path / "run"), rf"run is in use by process .* \(qffs {name}\)", tmp_path)


def test_a_report_and_a_quantization_wait_for_no_one_either(tmp_path: Path) -> None:
    run_demo(tmp_path / "run")
    with reserved(tmp_path / "run", "qffs demo"), pytest.raises(InvalidArgument, match="is in use by"):
        report(tmp_path / "run", progress=False)
    with reserved(tmp_path / "q", "qffs quantize", beside=True), pytest.raises(InvalidArgument, match="is in use by"):
        quantize(recipe(), tmp_path / "q", progress=False)


def test_what_could_not_begin_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise QffsError("no data")

    monkeypatch.setattr(runs_train, "run_inputs", fail)
    for run in (run_demo, run_train):
        with pytest.raises(QffsError, match="no data"):
            run(tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())


# The page of a run


def test_a_report_is_on_the_images_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_demo(tmp_path)
    digits = inputs.load_data("digits")
    exchanged = dataclasses.replace(digits.train, images=digits.train.images.flip(3))
    with monkeypatch.context() as within:
        instead_of_data(within, lambda *_, **__: dataclasses.replace(digits, train=exchanged))
        refused(lambda: report(tmp_path, progress=False), "holds a run on other images or labels than digits", tmp_path)
    instead_of_data(monkeypatch, lambda *_, **__: dataclasses.replace(digits, name="moved"))
    report(tmp_path, images=2, progress=False)
    assert "fingerprints" not in (tmp_path / "report.html").read_text()


def test_a_report_replaces_only_a_report(tmp_path: Path) -> None:
    run_demo(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine, on qffs")
    for name in ("results.json", "thesis.txt", "recipe.yaml", "snn/config.json"):
        said = f"{name} exists and is not a file of qffs report: it is not replaced"
        refused(lambda: report(tmp_path, tmp_path / name, progress=False), said, tmp_path)  # noqa: B023
    refused(lambda: report(tmp_path, tmp_path / "noise.json", progress=False), "writes its measurements", tmp_path)
    for name, mine in (
        ("energy.json", '{"model": 1, "images": 2, "energy_pj": 3}'),
        ("noise.json", '{"model": 1, "images": 2, "noise": 3}'),
        ("report.html", "<!doctype html> my page on qffs, a spiking network"),
    ):
        (tmp_path / name).write_text(mine)
        refused(lambda: report(tmp_path, progress=False), rf"{re.escape(name)} exists and is not a file", tmp_path)
        (tmp_path / name).unlink()
    for _ in range(2):
        report(tmp_path, tmp_path / "page.html", images=2, progress=False)
    (tmp_path / "notes.txt").write_text("mine")
    run_demo(tmp_path)
    assert not (tmp_path / "noise.json").exists()
    assert (tmp_path / "notes.txt").exists()
