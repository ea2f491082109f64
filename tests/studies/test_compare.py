"""`qffs compare` and `qffs methods`."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import qffs
from helpers.problems import instead_of_data
from helpers.untrained import images, network, trained
from qffs import export
from qffs.data import load as load_data
from qffs.errors import CheckpointError, Diverged, InvalidArgument, NotConvertible
from qffs.measurement.accuracy import measure
from qffs.recipes.recipe import Recipe
from qffs.runs import inputs, processors
from qffs.studies import compare, compare_seed
from qffs.studies.compare import compare as run_compare
from qffs.studies.compare_findings import title
from qffs.studies.methods import METHODS
from qffs.train import loop
from qffs.train.loop import fit
from qffs.train.state import RunState

RECIPE = Recipe.of(
    {
        "model_arguments": {"width": 8, "pooling": "average"},
        "full_precision": {"epochs": 4, "learning_rate": 0.03, "batch_size": 64},
        "quantized": {"epochs": 1, "learning_rate": 0.01, "batch_size": 64},
        "test_images": 100,
    }
)


STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Train on so many digits that an epoch has a few steps."""
    digits = load_data("digits")
    train = digits.train.select(torch.arange(STEPS_PER_EPOCH * 64))
    with pytest.MonkeyPatch.context() as patch:
        instead_of_data(patch, lambda *_, **__: dataclasses.replace(digits, train=train))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take longer than all the rest of a comparison."""
    monkeypatch.setattr(compare, "draw", lambda *given: given[-1].touch())


@pytest.fixture(scope="module")
def compared(few: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("compare")
    return run_compare(RECIPE, folder, ["qcfs", "qffs", "cos"], [1, 4, 8, 16], progress=False), folder


def test_all_methods_have_the_same_network_images_and_epochs(compared: Any) -> None:
    results, folder = compared
    kept = json.loads((folder / "compare.json").read_text())
    assert [row["method"] for row in kept["methods"]] == ["qffs", "qcfs", "cos"]  # in the order of the list
    assert (kept["images"], kept["latencies"]) == (100, [1, 4, 8, 16])
    own, qcfs, cos = kept["methods"]
    assert qcfs["trained_accuracy"] == cos["trained_accuracy"]  # trained once
    assert [point["latency"] for point in own["by_latency"]] == [1, 4, 8, 16]
    assert [point["latency"] for point in cos["by_latency"]] == [8, 16]  # 4 steps come before
    assert own["by_latency"][-1]["accuracy"] == pytest.approx(own["trained_accuracy"], abs=0.02)
    for row in kept["methods"]:
        spikes = [point["spikes"] for point in row["by_latency"]]
        assert spikes == sorted(spikes)
        assert spikes[-1] > 0
        energies = [point["energy_pj"] for point in row["by_latency"]]
        assert energies == sorted(energies)
        assert energies[0] > 1000
        assert {point["spread"] for point in row["by_latency"]} == {None}
    assert results["rows"][2][3:5] == [None, None]
    for suffix in ("png", "svg"):
        assert (folder / f"compare.{suffix}").stat().st_size > 10_000


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "seconds" not in key}


@pytest.mark.usefixtures("undrawn")
def test_the_same_seed_gives_the_same(compared: Any, tmp_path: Path) -> None:
    results, _ = compared
    again = run_compare(RECIPE, tmp_path, ["qffs"], [1, 4, 8, 16], progress=False)
    assert without_seconds(again["methods"][0]) == without_seconds(results["methods"][0])
    assert again["full_precision"] == results["full_precision"]


@pytest.mark.slow
def test_several_seeds_have_means_and_spreads(compared: Any, tmp_path: Path) -> None:
    results, _ = compared
    both = run_compare(RECIPE, tmp_path, ["qffs"], [1, 4, 8, 16], seeds=2, progress=False)
    assert both["seeds"] == [0, 1]
    (row,) = both["methods"]
    one, other = row["by_seed"]
    assert (one["seed"], other["seed"]) == (0, 1)
    assert one["by_latency"] != other["by_latency"]
    assert [point["accuracy"] for point in one["by_latency"]] == [
        point["accuracy"] for point in results["methods"][0]["by_latency"]
    ]
    for point, first, second in zip(row["by_latency"], one["by_latency"], other["by_latency"], strict=True):
        for key in ("accuracy", "spikes", "energy_pj"):
            assert point[key] == pytest.approx((first[key] + second[key]) / 2)
        assert point["spread"] == pytest.approx(abs(first["accuracy"] - second["accuracy"]) / 2**0.5)
    assert both["full_precision"]["accuracy"] == pytest.approx(sum(both["full_precision"]["by_seed"]) / 2)
    assert all(" ± " in str(cell) for cell in (both["rows"][0][1], *both["rows"][0][3:]))
    assert both["panels"][0]["series"][0]["spread"]
    assert "2 seeds" in title(both)


@pytest.mark.usefixtures("undrawn")
def test_a_small_network_is_compared_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*processors.THREADS, processors.LIMITED):
        monkeypatch.delenv(name, raising=False)
    threads: list[int] = []
    monkeypatch.setattr(compare_seed, "fit", lambda *a, **k: (threads.append(torch.get_num_threads()), fit(*a, **k))[1])
    short = RECIPE.model_copy(update={"full_precision": RECIPE.full_precision.model_copy(update={"epochs": 1})})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_compare(short, tmp_path, ["qffs"], [4], seeds=2, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 4
    assert json.loads((tmp_path / "compare.json").read_text())["run"]["threads"] == 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_what_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that was measured is not measured again; what was half trained ends with the same weights."""
    monkeypatch.setattr(compare_seed, "commit", lambda: "abc")
    whole = run_compare(RECIPE, tmp_path / "whole", ["ts", "qcfs", "srp"], [8], progress=False)

    class Stopped(Exception):
        pass

    steps = 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > 5 * STEPS_PER_EPOCH + STEPS_PER_EPOCH // 2:  # full precision, one activation, and half of another
            raise Stopped
        return loss_of(*arguments, **options)

    loss_of = loop.loss_of
    monkeypatch.setattr(loop, "loss_of", stopping)
    monkeypatch.setattr(RunState, "due", True)
    with pytest.raises(Stopped):
        run_compare(RECIPE, tmp_path / "half", ["ts", "qcfs", "srp"], [8], progress=False)
    left: list[None] = []
    monkeypatch.setattr(loop, "loss_of", lambda *a: (left.append(None), loss_of(*a))[1])
    trained: list[str] = []
    measured: list[Any] = []
    monkeypatch.setattr(compare_seed, "fit", lambda *a, **k: (trained.append(k["setting"].label), fit(*a, **k))[1])
    monkeypatch.setattr(compare_seed, "measure", lambda *a, **k: (measured.append(a), measure(*a, **k))[1])
    half = run_compare(RECIPE, tmp_path / "half", ["ts", "qcfs", "srp"], [8], progress=False)
    assert [*map(without_seconds, half["methods"])] == [*map(without_seconds, whole["methods"])]
    assert trained == ["full precision", "quantized clip, floor and shift"]
    assert len(left) == STEPS_PER_EPOCH // 2
    assert len(measured) == 2
    more = run_compare(RECIPE, tmp_path / "half", ["srp", "fast-snn"], [8], progress=False)
    assert len(measured) == 3
    assert more["run"]["seconds"] > half["methods"][-1]["seconds"]
    run_compare(RECIPE, tmp_path / "half", ["srp"], [8, 16], progress=False)
    assert len(measured) == 4
    monkeypatch.setattr(compare_seed, "commit", lambda: "abc-dirty")  # what has changed since is not known
    for _ in range(2):
        run_compare(RECIPE, tmp_path / "half", ["srp"], [8], progress=False)
    assert len(measured) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_what_there_is_of_another_network_or_is_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_seed, "commit", lambda: "abc")
    short = RECIPE.model_copy(update={"full_precision": RECIPE.full_precision.model_copy(update={"epochs": 1})})
    first = run_compare(short, tmp_path, ["qffs"], [4], progress=False)
    part = tmp_path / "parts" / "seed-0" / "qffs.json"
    for damaged in ("[]", "{", '{"cache_key": 1}'):
        part.write_text(damaged)
        again = run_compare(short, tmp_path, ["qffs"], [4], progress=False)
        assert without_seconds(again["methods"][0]) == without_seconds(first["methods"][0])
    whole = inputs.run_inputs

    def other(*arguments: Any, **options: Any) -> Any:
        made = whole(*arguments, **options)
        for parameter in made.network.parameters():
            parameter.data *= 0.5
        return made

    monkeypatch.setattr(compare_seed, "run_inputs", other)  # as if the file of weights had changed
    changed = run_compare(short, tmp_path, ["qffs"], [4], progress=False)
    assert changed["full_precision"] != first["full_precision"]
    assert without_seconds(changed["methods"][0]) != without_seconds(first["methods"][0])


@pytest.mark.slow
def test_what_diverges_or_has_no_read_out_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit

    def diverging(*arguments: Any, setting: Any, **options: Any) -> Any:
        if setting.label == "fixed clip":
            raise Diverged("the loss became nan")
        return whole(*arguments, setting=setting, **options)

    monkeypatch.setattr(compare_seed, "fit", diverging)
    results = run_compare(RECIPE, tmp_path, ["ts", "cos"], [1, 2], progress=False)
    assert [row["method"] for row in results["methods"]] == ["cos"]
    assert "COS has no read-out at these latencies." in results["notes"]
    assert results["notes"][-1] == "TS is left out: the loss became nan."
    assert (tmp_path / "compare.svg").exists()


@pytest.mark.usefixtures("undrawn")
def test_of_all_methods_those_that_cannot_train_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: METHODS[name] for name in ("qffs", "sew")}
    monkeypatch.setattr(compare, "METHODS", few)
    largest = RECIPE.model_copy(update={"model_arguments": {"width": 4}, "test_images": 20})
    results = run_compare(largest, tmp_path, [], [4], progress=False)
    assert [row["method"] for row in results["methods"]] == ["qffs"]
    assert results["left_out"][0]["method"] == "sew"
    assert results["notes"][-1].startswith("SEW is left out: direct training needs a network that is linear except for")
    with pytest.raises(NotConvertible, match="direct training needs a network that is linear except for its ReLUs"):
        run_compare(largest, tmp_path / "named", ["sew"], [4], progress=False)
    monkeypatch.setattr("qffs.studies.methods.method.find_spec", lambda _: None)
    results = run_compare(RECIPE.model_copy(update={"test_images": 20}), tmp_path, [], [4], progress=False)
    assert "this needs spikingjelly, which is not installed" in results["notes"][-1]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgument, match="there is no method 'lif'; there are qffs, qffs-reconstructed, spike-norm, rmp, "
    ):
        run_compare(RECIPE, tmp_path, ["lif"])
    for steps in ([], [0], [1, 2.5], [2**21]):
        with pytest.raises(
            InvalidArgument, match="latencies must be whole numbers of at least 1, at most 1,048,576, not "
        ):
            run_compare(RECIPE, tmp_path, [], steps)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_on_the_command_line(command_line: Callable[..., Any], tmp_path: Path) -> None:
    said = command_line("methods", "--json")
    assert said.code == 0
    assert [each["name"] for each in json.loads(said.out)] == list(METHODS)
    said = command_line("methods")
    assert all(name in said.out for name in METHODS)
    changes = ("full_precision.epochs=1", "quantized.epochs=0", "test_images=20", "model_arguments={width: 4}")
    said = command_line("compare", "digits", *changes, "--methods", "qffs, ts", "--steps", "1,2", "-o", "out")
    assert said.code == 0
    assert said.out.endswith("Wrote compare.json, compare.png and compare.svg to out.\n")
    assert (tmp_path / "out" / "compare.json").exists()
    said = command_line("compare", "digits_net", *changes, "--methods", "ts", "--steps", "2", "--json")
    assert said.code == 0
    assert json.loads(said.out)["model"] == "digits_net"
    for arguments, sentence in (
        (("--seeds", "0"), "qffs: the number of seeds must be a whole number of at least 1, not 0"),
        (("--methods", "lif"), "qffs: there is no method 'lif'; there are "),
        (("--steps", "1,two"), "qffs: --steps must be whole numbers such as 1,2,4, not '1,two'"),
        (("--steps", "0"), "qffs: latencies must be whole numbers of at least 1, at most 1,048,576, not [0]"),
    ):
        said = command_line("compare", "digits", *arguments)
        assert said.code == 2
        assert said.err.startswith(sentence)


@pytest.mark.parametrize("name", ["spike-norm", "multi-level"])
def test_other_rules_go_where_neurons_are_ours(name: str) -> None:
    x = images()
    snn = METHODS[name].spiking(trained(METHODS[name], network(), x), [x], 8)
    for make in (lambda: export.brian2(snn, "nowhere"), lambda: export.nir_exact(snn, "nowhere.nir")):
        with pytest.raises(NotConvertible, match=r"\n1 \(Neuron\): it fires by another rule\n"):
            make()
    made = export.snntorch(snn)
    found = torch.stack([made(x) for _ in range(8)]).cumsum(0)
    # Spike-Norm puts thresholds at the largest current, a tie that another order of additions decides otherwise.
    torch.testing.assert_close(found, snn(x, steps=8, backend="reference"))


def test_a_network_that_begins_otherwise_is_not_taken_for_a_plain_one(tmp_path: Path) -> None:
    x = images()
    for name in ("srp", "cos", "calibration"):
        snn = METHODS[name].spiking(trained(METHODS[name], network(), x), [x], 8)
        for taken in (lambda s: qffs.save(s, tmp_path / "snn"), copy.deepcopy, export.snntorch, export.spikingjelly):
            with pytest.raises(
                CheckpointError,
                match=r"a network that starts by \w+ cannot be saved(: its start is not part of | or copied)",
            ):
                taken(snn)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.slow
def test_a_method_that_trains_its_own_way_takes_any_recipe(tmp_path: Path) -> None:
    nesterov = RECIPE.quantized.model_copy(update={"nesterov": True, "momentum": 0.8})
    few = RECIPE.model_copy(update={"quantized": nesterov, "test_images": 20})
    (row,) = run_compare(few, tmp_path, ["diet"], [4], progress=False)["methods"]
    assert row["by_latency"]


def test_what_is_no_network_and_no_recipe_is_said(command_line: Callable[..., Any]) -> None:
    for name, sentence in (
        ("cifar_resnet21", "qffs: there is no recipe or network 'cifar_resnet21'; there is cifar_resnet"),
        ("a:b/r.yaml", "qffs: a:b/r.yaml cannot be read"),
    ):
        assert command_line("compare", name).err.startswith(sentence)


def test_what_methods_decide_is_not_asked_of_a_recipe(tmp_path: Path) -> None:
    other = RECIPE.model_copy(update={"bits": 3, "output": 3})
    with pytest.raises(InvalidArgument, match=r"compared with 2 bits .* and 3 charge steps: leave out bits, output$"):
        run_compare(other, tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidArgument, match="file is a file, where a folder is to be written: name another output"):
        run_compare(RECIPE, tmp_path / "file")


@pytest.mark.usefixtures("undrawn")
def test_the_network_that_was_trained_teaches(tmp_path: Path) -> None:
    taught = RECIPE.quantized.model_copy(update={"distillation": 1.0})
    found = [run_compare(RECIPE.model_copy(update={"quantized": each, "test_images": 20}), tmp_path, ["ts"], [4],
             progress=False)["methods"][0] for each in (RECIPE.quantized, taught)]  # fmt: skip
    assert without_seconds(found[0]) != without_seconds(found[1])
