"""docs/exports.md is the page of what was measured, of every network of the tests."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from networks import NETWORKS
from qffs.export import TARGETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("page_of_exports", ROOT / "scripts" / "exports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_what_was_measured(script: Any) -> None:
    found = json.loads(script.KEPT.read_text(encoding="utf-8"))
    assert script.PAGE.read_text(encoding="utf-8") == script.page(found)
    assert list(found) == list(NETWORKS)
    assert {name.split(",")[0] for name in script.COLUMNS} == set(TARGETS)
    for row in found.values():
        assert set(row) <= set(script.COLUMNS)
        for cell in row.values():
            assert re.fullmatch(r"equal|refused: .+|\de-(0[6-9]|1\d)", cell), row


def test_rows_and_refusals_are_told(script: Any) -> None:
    text = script.page({"a": {"hub": "equal", "spikingjelly": "refused: too old"}, "b": {"hub": "refused: too old"}})
    assert "| a | refused (1) |  |  |  |  |  | equal |\n| b |  |  |  |  |  |  | refused (1) |" in text
    assert "\n1. too old\n" in text


def test_the_page_describes_every_target(script: Any) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", script.HEAD, re.M)) == set(TARGETS)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_a_network_is_measured(name: str, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "first_of_kinds", set)
    kept = json.loads(script.KEPT.read_text(encoding="utf-8"))[name]
    assert script.one(name) == {column: kept[column] for column in ("spikingjelly", "snntorch", "hub")}
