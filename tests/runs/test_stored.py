"""results.json and run.json are checked where they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import mutations
from qffs.errors import CheckpointError
from qffs.runs.stored import check_state, read_origin, read_results

STEP = {"steps": 1, "accuracy": 0.5, "spikes_per_image": 3.0, "agreement": 0.75}
RESULTS: dict[str, Any] = {
    "model": "digits_net", "data": "digits", "images": 10, "bits": {"*": 2}, "charge_schedule": [0.5, 0.5],
    "full_precision": {"accuracy": 0.9, "epochs": []}, "qann": {"accuracy": 0.8, "epochs": []},
    "snn": [STEP, {**STEP, "steps": 2}], "versions": {"qffs": "1"}, "other": None,
    "layers": [{"layer": "relu", "positive": [1, 2], "negative": [0, 1]}],
}  # fmt: skip


def written(content: Any, folder: Path) -> Path:
    (folder / "results.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "results.json"


def test_what_a_run_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_results(written(RESULTS, tmp_path)) == RESULTS


@pytest.mark.parametrize("of", [read_results, read_origin])
def test_a_pipe_is_not_waited_for(of: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match=r"x\.json cannot be read: it is no regular file"):
        of(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"snn": []}, r"is damaged: snn cannot be \[\]$"),
        ({"snn": [1]}, r"is damaged: snn\.0 cannot be 1$"),
        ({"snn": {}}, r"is damaged: snn cannot be {}$"),
        ({"snn": [STEP, {k: STEP[k] for k in list(STEP)[:3]}]}, "agreement for each step, or for none"),
        ({"snn": [{**STEP, "accuracy": None}]}, r"is damaged: snn\.0\.accuracy cannot be null$"),
        ({"snn": [{**STEP, "accuracy": float("nan")}]}, r"is damaged: snn\.0\.accuracy "),
        ({"snn": [{**STEP, "steps": 0}]}, r"is damaged: snn\.0\.steps "),
        ({"snn": [{**STEP, "accuracy": 7.0}]}, r"is damaged: snn\.0\.accuracy "),
        ({"snn": [{**STEP, "agreement": 1.01}]}, r"is damaged: snn\.0\.agreement "),
        ({"qann": {"accuracy": 7}}, r"is damaged: qann\.accuracy cannot be 7$"),
        ({"full_precision": {"accuracy": -0.1}}, r"is damaged: full_precision\.accuracy "),
        ({"images": "x"}, 'is damaged: images cannot be "x"$'),
        ({"images": 0}, "is damaged: images "),
        ({"model": None}, "is damaged: model "),
        ({"qann": None}, "is damaged: qann is null"),
        ({"qann": {}}, r"is damaged: qann\.accuracy is missing$"),
        ({"layers": [{**RESULTS["layers"][0], "positive": []}]}, "one number for each step"),
        ({"layers": [{**RESULTS["layers"][0], "positive": [10**400, 1]}]}, r"layers\.0\.positive"),
        ({"bits": []}, "is damaged: bits"),
    ],
)
def test_a_damaged_value_is_named(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = written(RESULTS | change, tmp_path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model", "data", "images", "snn", "layers"])
def test_a_missing_value_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="holds no results of a run" if key == "snn" else f"damaged: {key} is missing$"
    ):
        read_results(written({name: value for name, value in RESULTS.items() if name != key}, tmp_path))


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\udcff", "1" * 5000, ""])
def test_what_is_no_json_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_results(tmp_path / "results.json")


def test_the_origin_may_be_missing_but_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert read_origin(path) == {}
    assert read_origin(written({"command": "qffs demo", "seconds": 1}, tmp_path))["seconds"] == 1
    with pytest.raises(CheckpointError, match=r"damaged: command cannot be 3$"):
        read_origin(written({"command": 3}, tmp_path))


@pytest.mark.parametrize("content", ["[1]", "null", '"x"', "[]", "0", "false"])
def test_what_is_no_mapping_is_damaged(content: str, tmp_path: Path) -> None:
    path = written(content, tmp_path)
    for read in (read_origin, read_results):
        with pytest.raises(CheckpointError, match=r"is damaged: it holds .+, where a mapping is needed$"):
            read(path)


EPOCH = {"number": 1, "loss": 0.5, "accuracy": 0.5, "held_out": None}
STATE: dict[str, Any] = {
    "stage": "quantized", "data": "x", "histories": {"full precision": [EPOCH, {**EPOCH, "number": 2}]}, "seconds": 1.0,
}  # fmt: skip


def test_a_state_of_each_stage_is_taken() -> None:
    check_state(STATE, Path("state.pt"), 2)
    check_state(STATE | {"stage": "full precision", "histories": {}}, Path("state.pt"), 2)
    check_state(STATE | {"histories": {"full precision": []}}, Path("state.pt"), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"histories": {}},
        {"stage": "full precision"},
        {"histories": {"full precision": [EPOCH]}},
        {"histories": {**STATE["histories"], "quantized": []}},
        {"histories": {"full precision": [EPOCH, EPOCH]}},
        {"histories": {"full precision": [EPOCH, {**EPOCH, "number": 2, "accuracy": 2.0}]}},
    ],
)
def test_a_state_that_no_run_had_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^state\.pt is damaged: histories"):
        check_state(STATE | change, Path("state.pt"), 2)


def test_any_damage_is_one_sentence(tmp_path: Path) -> None:
    refused = 0
    for damaged in mutations.of_json(RESULTS, 300):
        try:
            read_results(written(json.dumps(damaged), tmp_path))
        except CheckpointError:
            refused += 1
    assert 100 < refused < 300
