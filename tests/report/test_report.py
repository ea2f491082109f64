"""Results as text, table and picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from qffs.errors import QffsError
from qffs.files import to_json, write
from qffs.graph.plan import Plan, Row
from qffs.graph.site import Kind
from qffs.measurement.accuracy import Measurement
from qffs.measurement.activity import Activity
from qffs.report.plots import draw_accuracy
from qffs.report.results import by_layer, by_step, plan_rows
from qffs.report.tables import show, show_plan

MEASURED = Measurement(
    images=4,
    accuracy=(0.25, 0.5, 0.98765),
    activity=(Activity("first", (5, 0, 2), (0, 1, 0)), Activity("second", (7000, 0, 0), (0, 0, 1))),
    qann_accuracy=0.75,
    agreement=(0.125, 0.5, 1.0),
)


def results(**more: Any) -> dict[str, Any]:
    rows = {"snn": by_step(MEASURED), "layers": by_layer(MEASURED.activity), "qann": {"accuracy": 0.75}}
    return {"model": "net", "data": "pets", "images": 12345, "bits": 3} | rows | more


def shown(of: dict[str, Any]) -> str:
    stream = StringIO()
    show(of, Console(file=stream, width=100, color_system=None))
    return stream.getvalue()


def test_a_measurement_becomes_rows_by_step_and_by_layer() -> None:
    assert by_step(MEASURED) == [
        {"steps": 1, "accuracy": 0.25, "spikes_per_image": 7005 / 4, "agreement": 0.125},
        {"steps": 2, "accuracy": 0.5, "spikes_per_image": 7006 / 4, "agreement": 0.5},
        {"steps": 3, "accuracy": 0.98765, "spikes_per_image": 7009 / 4, "agreement": 1.0},
    ]
    assert by_layer(MEASURED.activity) == [
        {"layer": "first", "positive": [5, 0, 2], "negative": [0, 1, 0]},
        {"layer": "second", "positive": [7000, 0, 0], "negative": [0, 0, 1]},
    ]
    alone = Measurement(4, (0.5,), (Activity("first", (1,), (0,)),))
    assert by_step(alone) == [{"steps": 1, "accuracy": 0.5, "spikes_per_image": 0.25}]


def test_bits_by_pattern_have_a_name_of_their_own() -> None:
    assert "QANN, mixed precision " in shown(results(bits={"a.*": "full", "*": 2}))
    assert "QANN, 3 bit " in shown(results())


def test_the_table_shows_the_numbers() -> None:
    text = shown(results(full_precision={"accuracy": 0.5432}))
    assert "net on pets, 12,345 test images" in text
    cells = [[cell.strip() for cell in line.strip("│ \n").split("│")] for line in text.splitlines() if "│" in line]
    assert [[cell for cell in row if cell] for row in cells] == [
        ["full precision", "54.32 %"],
        ["QANN, 3 bit", "75.00 %"],
        ["SNN", "1", "25.00 %", "12.50 %", "1,751"],
        ["SNN", "2", "50.00 %", "50.00 %", "1,752"],
        ["SNN", "3", "98.77 %", "100.00 %", "1,752"],
    ]


def test_the_table_leaves_out_what_was_not_measured() -> None:
    of = results()
    del of["qann"]
    for row in of["snn"]:
        del row["agreement"]
    assert "QANN," not in shown(of)
    assert "12.50 %" not in shown(of)


@pytest.mark.parametrize("name", ["[/bold]", "[red]pets", "$\\frac$", "a$b$", "50 % {x}"])
def test_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    assert name in shown(results(data=name))
    draw_accuracy(results(data=name), tmp_path / "figure.png")


@pytest.mark.parametrize("steps", [1, 3, 64])
@pytest.mark.parametrize("compared", [False, True])
def test_the_picture_is_a_sound_png(steps: int, compared: bool, tmp_path: Path) -> None:
    measured = Measurement(4, (0.5,) * steps, (), agreement=(1.0,) * steps if compared else None)
    of = results(snn=by_step(measured))
    if compared:
        of["full_precision"] = {"accuracy": 0.5}
    else:
        del of["qann"]
    draw_accuracy(of, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png", formats=["PNG"]) as image:
        image.load()
        assert image.size == (960, 630)
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 10


def test_the_same_results_give_the_same_text_and_come_back_from_it() -> None:
    text = to_json(results(seed=0))
    assert text == to_json(results(seed=0))
    assert json.loads(text) == results(seed=0)
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"loss": float("nan")})


# Files, whole or not there


def test_a_file_and_its_folders_are_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b" / "x.txt", lambda fresh: fresh.write_text("new"))
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bug")])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fails(fresh: Path) -> None:
        assert fresh.suffix == ".txt"
        fresh.write_text("ha")
        raise error

    expected = QffsError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write(path, fails)
    if expected is QffsError:
        assert str(caught.value) == f"{path} could not be written: No space left on device"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x.txt", "old")]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_in_putting_it_in_place_leaves_the_old_file(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(QffsError, match="could not be written"):
            write(path, lambda fresh: fresh.write_text("new"))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x.txt", "old")]


def test_a_file_where_a_folder_should_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(QffsError, match=r"file/x\.txt could not be written: "):
        write(tmp_path / "file" / "x.txt", lambda fresh: fresh.write_text("new"))
    assert (tmp_path / "file").read_text() == "mine"


PLAN = Plan(
    (
        Row("x", "x", (2, 3), Kind.INPUT, "analog"),
        Row("body.[one].relu", "ReLU", (2, 16, 32, 32), Kind.SPIKING, "a ReLU becomes a quantizer, then a neuron"),
        Row("size", ".size", None, Kind.PLAIN, "a shape"),
        Row("body.sort", "sort", (2, 3), Kind.REFUSED, "there is no rule for sort"),
    )
)


def plan_shown(width: int, terminal: bool) -> str:
    stream = StringIO()
    show_plan(PLAN, "net [bold] on 3", Console(file=stream, width=width, color_system=None, force_terminal=terminal))
    return stream.getvalue()


def test_a_plan_in_a_pipe_is_one_line_a_call_however_narrow() -> None:
    assert plan_shown(20, False) == f"{PLAN}\n"


@pytest.mark.parametrize("width", [30, 60, 120])
def test_a_plan_on_a_terminal_wraps_and_loses_nothing(width: int) -> None:
    *lines, last = plan_shown(width, True).splitlines()
    assert all(len(line) <= width for line in lines)
    assert last == "1 layer of neurons, 1 input, 1 plain, 1 refused"
    if width == 120:
        assert lines[0].strip() == "net [bold] on 3"
        cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[2:]]
        assert cells[0] == ["site", "operator", "shape", "kind", "why"]
        assert cells[3] == ["body.[one].relu", "ReLU", "2x16x32x32", "spiking", PLAN.rows[1].why]
    letters = Counter("".join(lines))
    letters[" "] = 0
    heading, *rows, _ = str(PLAN).splitlines()
    heading = heading.replace("source", "") if width == 120 else heading.replace("why", "").replace("source", "")
    assert letters >= Counter("".join([*heading.split(), *"".join(rows).split()]))
    if width == 60:
        assert "spiking 2: a ReLU becomes a quantizer, then a neuron" in lines


def test_a_plan_counts_its_kinds_and_ends_with_what_is_refused() -> None:
    assert Plan(PLAN.rows[:3]).summary() == "1 layer of neurons, 1 input, 1 plain, nothing refused"
    assert Plan(PLAN.rows[1:2] * 17 + PLAN.rows[3:] * 2).summary() == "17 layers of neurons, 2 refused"


def test_the_rows_of_a_plan_have_every_field() -> None:
    first, *_, last = json.loads(to_json(plan_rows(PLAN)))
    assert first == {
        "site": "x", "operator": "x", "shape": [2, 3], "kind": "input", "why": "analog", "source": "", "values": False
    }  # fmt: skip
    assert last["kind"] == "refused"
    assert len(plan_rows(PLAN)) == 4


def test_steps_that_measured_the_same_are_one_row() -> None:
    step = {"accuracy": 0.5, "spikes_per_image": 7.0}
    rows = [{"steps": 1, "accuracy": 0.25, "spikes_per_image": 5.0}, *({"steps": t, **step} for t in range(2, 256))]
    stream = StringIO()
    show({"model": "net", "data": "digits", "images": 4, "snn": rows}, Console(file=stream, width=100))
    assert [line.split("│")[2].strip() for line in stream.getvalue().splitlines() if "SNN" in line] == ["1", "2 to 255"]
