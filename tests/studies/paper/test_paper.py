"""The paper's tables and figures, made on a few digits, against what their networks' own runs say."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.places import SHARED
from helpers.problems import instead_of_data
from qffs.convert import to_spiking
from qffs.data import Images
from qffs.data import load as load_data
from qffs.errors import InvalidArgument
from qffs.method import FiringRule
from qffs.models.checkpoint import load
from qffs.recipes import read
from qffs.recipes.recipe import Recipe
from qffs.report.findings import Findings
from qffs.studies.paper import items
from qffs.studies.paper import shelf as shelves
from qffs.studies.paper.items import BITS, ITEMS, figure1, figure4, figure5, table3
from qffs.studies.paper.make import make
from qffs.studies.paper.published import DIRECT, SOURCE, TABLE_3, TABLE_4
from qffs.studies.paper.shelf import Shelf, Trained

PAPER = SHARED / "paper" / "qffs-2022.txt"
EPOCH = {"epochs": 1, "learning_rate": 0.03, "batch_size": 32}
RECIPE = Recipe.of(
    {
        "full_precision": EPOCH,
        "quantized": EPOCH,
        "model_arguments": {"width": 4},
        "device": "cpu",
        "calibration_images": 64,
    }
)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The digits, but few of them."""
    digits = load_data("digits")
    train, test = (Images(part.images[:64], part.labels[:64]) for part in (digits.train, digits.test))
    few = dataclasses.replace(digits, train=train, test=test)
    instead_of_data(monkeypatch, lambda *_, **__: few)
    monkeypatch.setattr(shelves, "load_data", lambda *_, **__: few)
    return few


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


def made(name: str, folder: Path, recipe: Recipe = RECIPE) -> dict[str, Any]:
    return make(name, recipe, folder, progress=False)


def run_of(folder: Path, bits: int, output: int | str, pooling: str | None = None) -> Path:
    """The one folder on the shelf of these bits."""
    found = []
    for path in (folder / "networks").glob(f"digits_net-{bits}bit-output-{output}-*"):
        arguments = json.loads((path / "results.json").read_text())["model_arguments"]
        if arguments.get("pooling") == pooling:
            found.append(path)
    (only,) = found
    return only


def results_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text())
    return found


def percent(row: dict[str, Any]) -> Any:
    return pytest.approx(100 * row["accuracy"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("fig6", [(bits, bits) for bits in BITS]),
        pytest.param("fig7", [(bits, "analog") for bits in BITS], marks=pytest.mark.slow),
        pytest.param("fig8", [(2, bits) for bits in BITS], marks=pytest.mark.slow),
    ],
)
def test_sweeps_show_the_networks_on_the_shelf(name: str, networks: list[tuple[int, Any]], folder: Path) -> None:
    found = made(name, folder)
    (panel,) = found["panels"]
    for row, series, (bits, output) in zip(found["rows"], panel["series"], networks, strict=True):
        results = results_of(run_of(folder, bits, output))
        curve = [each["accuracy"] for each in results["snn"]]
        assert row[0] == series["name"]
        assert row[1] == percent(results["qann"])
        assert row[2] == 2**bits - 1
        assert row[4:] == [percent(results["snn"][-1]), len(curve)]
        away = [t for t, value in enumerate(curve, 1) if abs(value - results["qann"]["accuracy"]) > 0.001]
        assert row[3] == max(away, default=0) + 1
        assert series["x"] == list(range(1, len(curve) + 1))
        assert series["y"] == pytest.approx([100 * value for value in curve], abs=1e-3)
        highest = 2 ** max(bits, 1 if output == "analog" else output) - 1
        assert len(curve) >= 2 * highest + 2
    assert len({series["name"] for series in panel["series"]}) == len(BITS)


@pytest.mark.slow
def test_figure_9_is_the_three_of_them(folder: Path) -> None:
    found = made("fig9", folder)
    each = [made(name, folder) for name in ("fig6", "fig7", "fig8")]
    assert found["panels"] == [one["panels"][0] for one in each]
    assert found["rows"] == [row for one in each for row in one["rows"]]


@pytest.mark.slow
def test_figure_3_is_without_negative_spikes(folder: Path, few: Any) -> None:
    found = made("fig3", folder)
    for bits, row in zip(BITS, found["rows"], strict=True):
        qann = load(run_of(folder, bits, bits) / "qann").network
        bare = to_spiking(qann, rule=FiringRule(negative_spikes=False))
        steps = 2**bits - 1
        with torch.no_grad():
            predicted = bare(few.normalize(few.test.images), steps=steps)[-1].argmax(-1)
        accuracy = 100 * float((predicted == few.test.labels).double().mean())
        assert row == [
            bits,
            percent(results_of(run_of(folder, bits, bits))["qann"]),
            pytest.approx(accuracy, abs=1e-3),
            steps,
        ]


@pytest.mark.slow
def test_table_4_adds_remedy_after_remedy(folder: Path, few: Any) -> None:
    rows = made("table4", folder)["rows"]
    average, largest, wider = (
        run_of(folder, 2, 2, "average"), run_of(folder, 2, 2, "max"), run_of(folder, 2, 3, "max"),
    )  # fmt: skip
    bare = to_spiking(load(average / "qann").network, rule=FiringRule(negative_spikes=False))
    with torch.no_grad():
        predicted = bare(few.normalize(few.test.images), steps=3)[-1].argmax(-1)
    wanted = [
        pytest.approx(100 * float((predicted == few.test.labels).double().mean()), abs=1e-3),
        percent(results_of(average)["snn"][2]),
        percent(results_of(average)["snn"][-1]),
        percent(results_of(largest)["snn"][-1]),
        percent(results_of(wider)["snn"][-1]),
    ]
    assert [row[2] for row in rows] == wanted
    assert [(row[1], row[5]) for row in rows] == list(TABLE_4)
    pools = [type(m).__name__ for m in load(average / "qann").network.modules() if "Pool" in type(m).__name__]
    assert pools == ["AvgPool2d"]


def test_networks_without_pooling_have_no_table_4(folder: Path) -> None:
    recipe = RECIPE.model_copy(update={"model": "cifar_resnet20", "model_arguments": {"width": 4, "channels": 1}})
    with pytest.raises(InvalidArgument, match="this needs a network whose pooling can be chosen"):
        made("table4", folder, recipe)


def test_figure_5_is_what_conversion_loses(folder: Path) -> None:
    found = made("fig5", folder)
    for bits, series in zip((2, 3), found["panels"][0]["series"], strict=True):
        results = results_of(run_of(folder, bits, "analog"))
        first = 2**bits - 1
        losses = [100 * (results["qann"]["accuracy"] - row["accuracy"]) for row in results["snn"][first - 1 :]]
        assert series["y"] == pytest.approx(losses, abs=1e-3)
        assert series["x"] == list(range(first, len(results["snn"]) + 1))
    assert found["panels"][0]["bits"] is True


def test_ours_stand_beside_what_is_published(folder: Path) -> None:
    rows = made("table3", folder)["rows"]
    published = [row for row in rows if row[-1] == "paper"]
    assert [tuple(row[:-1]) for row in published] == [tuple(row) for row in TABLE_3]
    ours = [row for row in rows if row[-1] == "here"]
    assert {row[0] for row in ours} == {
        "qffs, 2 bit, output 3 bit", "qffs, 2 bit, output analog", "qffs, 3 bit, output analog",
    }  # fmt: skip
    for row in ours:
        bits, output = re.findall(r"(\d) bit, output (\w+)", row[0])[0]
        results = results_of(run_of(folder, int(bits), output))
        assert row[3:5] == [percent(results["qann"]), percent(results["snn"][row[5] - 1])]
    found = made("fig1", folder)
    assert [panel["title"] for panel in found["panels"]] == ["digits", "CIFAR-10", "ImageNet"]
    assert all(
        bool(each["published"]) == (panel["title"] != "digits") for panel in found["panels"] for each in panel["series"]
    )
    assert all(panel["log"] for panel in found["panels"])
    shown = {(row[0], row[2], row[3], row[4]) for row in found["rows"] if row[4] != "here"}
    wanted = {(row.data, row.snn, row.steps, f"{SOURCE}, table 3") for row in TABLE_3}
    assert shown == wanted | {(row.data, row.snn, row.steps, row.source) for row in DIRECT}
    lines = {(row[1], row[3]) for row in found["rows"] if row[4] == "here"}
    assert {steps for _, steps in lines} == {3, 4, 8, 16}
    (_, second) = found["panels"][0]["series"]
    assert all([second["name"], steps] in [row[1:4:2] for row in found["rows"]] for steps in (3, 4, 8, 16))


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's text is not there")
def test_what_is_published_is_what_the_paper_says() -> None:
    lines = [re.sub(r"\s+", " ", line) for line in PAPER.read_text(encoding="utf-8", errors="replace").splitlines()]
    for row in TABLE_3:
        network, _, bits = row.network.partition(", ")
        method = row.method.split(",")[0]
        found = [line for line in lines if line.startswith(method) and f" {row.data} {network} " in line]
        found = [line for line in found if ("analog" in line) == bool(bits)]
        numbers = [float(each) for line in found for each in re.findall(r"\d+(?:\.\d+)?", line.split(network)[1])]
        assert {row.ann, row.snn, row.steps} <= set(numbers), row
    text = "\n".join(lines)
    for _, accuracy in TABLE_4:
        assert re.search(rf"^\d .* {accuracy:g}$", text, re.M), accuracy


def test_figure_4_is_drawn_from_the_neuron_itself() -> None:
    found = figure4(Shelf(RECIPE, Path("none")))
    a, b, c, d, e, f = found.panels
    for panel, ours in ((a, lambda v: v // 1), (b, lambda v: (v + 0.5) // 1), (c, lambda v: (v + 0.5) // 1)):
        for x, y in zip(panel.series[0].x, panel.series[0].y, strict=True):
            if abs(2 * x - round(2 * x)) > 1e-3:  # not at a jump
                assert y == min(max(ours(x), 0), 3)
    assert b.series[0].y == c.series[0].y
    for panel, error in ((a, d), (b, e), (c, f)):
        clipped = [min(max(x, 0), 3) for x in panel.series[1].x]
        assert panel.series[1].y == pytest.approx(clipped)
        assert error.series[0].y == pytest.approx([y - z for y, z in zip(panel.series[0].y, clipped, strict=True)])
    assert found.notes == ["The pre-charged neuron and the quantizer are equal at all 501 inputs."]


@pytest.mark.slow
def test_networks_are_trained_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made("fig5", folder)

    def trains(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("qffs.runs.train.fit", trains)
    again = made("fig5", folder)
    assert again["rows"] == first["rows"]
    with pytest.raises(AssertionError, match="trained again"):
        made("fig5", folder, RECIPE.model_copy(update={"seed": 1}))


@pytest.mark.slow
def test_files_are_pictures_and_data(folder: Path) -> None:
    found = made("fig7", folder)
    assert json.loads((folder / "fig7.json").read_text()) == found
    with Image.open(folder / "fig7.png") as picture:
        assert min(picture.size) > 400
        assert picture.convert("L").getextrema() == (0, 255)
    assert (folder / "fig7.svg").read_text().count("<path") > 20
    assert {"command", "commit", "device", "versions"} <= found["run"].keys()
    made("table3", folder)
    assert not (folder / "table3.png").exists()


def test_there_are_only_these() -> None:
    assert list(ITEMS) == ["table3", "table4", "fig1", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9"]
    with pytest.raises(InvalidArgument, match="there is no 'fig2' to make; there are table3, table4, fig1"):
        make("fig2", RECIPE, Path("none"))
    assert Findings() == Findings([], [], [], [])


def test_data_and_weights_may_move_but_not_change(tmp_path: Path) -> None:
    def marks(data: str, weights: str) -> str:
        recipe = RECIPE.model_copy(update={"data": f"images:{tmp_path / data}", "weights": str(tmp_path / weights)})
        return Shelf(recipe, tmp_path)._marks()

    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name / "float").mkdir(parents=True)
        (tmp_path / name / "float" / "model.safetensors").write_text(content)
        (tmp_path / name / "pets.zip").write_text(content)
    same = marks("a/pets.zip", "a/float")
    assert marks("b/pets.zip", "b/float") == same
    assert len({same, marks("c/pets.zip", "a/float"), marks("a/pets.zip", "c/float")}) == 3


def test_a_network_that_does_not_settle_has_no_step_to_show(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trained, "curve", property(lambda self: [self.qann - 0.01] * 16))
    assert [row[2] for row in figure5(Shelf(RECIPE, folder / "networks", progress=False)).rows] == [None, None]
    assert all(
        row[-1] == "paper" or row[5] in {4, 8}
        for row in table3(Shelf(RECIPE, folder / "networks", progress=False)).rows
    )


@pytest.mark.parametrize(("ends", "step"), [(0.442, 1), (0.440, 1), (0.4425, None)])
def test_a_tenth_of_a_point_is_within_a_tenth(ends: float, step: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trained, "curve", property(lambda _: [ends] * 16))
    assert Trained(Path(), RECIPE, {"qann": {"accuracy": 0.441}}).settled() == step


@pytest.mark.slow
def test_what_the_networks_took_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("fig5", folder)
    monkeypatch.setattr("qffs.runs.train.fit", lambda *_, **__: pytest.fail("trained again"))
    networks = [run_of(folder, bits, "analog") for bits in (2, 3)]
    bases = {results_of(path)["weights"] for path in networks}
    assert bases == {"float"}
    (base,) = {Path(read(str(path / "recipe.yaml")).weights or "").parent for path in networks}
    seconds = [json.loads((path / "run.json").read_text())["seconds"] for path in (base, *networks)]
    assert made("fig5", folder)["run"]["training_seconds"] == pytest.approx(sum(seconds), abs=0.06)
    assert made("fig4", folder)["run"]["training_seconds"] == 0


@pytest.mark.parametrize(
    ("data", "panel"), [("CIFAR-10 (JPEG)", 0), ("cifar-10", 0), ("CIFAR-100", None), ("imagenet", 1)]
)
def test_figure_1_puts_ours_beside_the_same_data_only(
    data: str, panel: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "_data", lambda _: data)
    panels = figure1(Shelf(RECIPE, folder / "networks", progress=False)).panels
    assert [any(not each.published for each in one.series) for one in panels[-2:]] == [panel == 0, panel == 1]
