"""docs/exports.md is the page of what was measured, of every operator and every network of the tests."""

from __future__ import annotations

import json
import re
import sys

import pytest

from helpers.networks import NETWORKS
from helpers.places import ROOT
from helpers.scripted import script
from helpers.slow import slow_but
from qffs.export import TARGETS
from qffs.graph.rules import MODULES, OPERATORS
from qffs.graph.site import Kind

sys.path.insert(0, str(ROOT / "tests" / "graph"))  # whose cases are measured
PAGE, BY_OPERATOR = script("exports"), script("exports_of_operators")
ROWS = PAGE.read("operators")


def test_the_page_is_that_of_what_was_measured() -> None:
    found = PAGE.read("networks")
    assert PAGE.PAGE.read_text(encoding="utf-8") == PAGE.page(found, ROWS, PAGE.read("digits"))
    assert list(found) == list(NETWORKS)
    assert {name.split(",")[0] for name in PAGE.COLUMNS} == set(TARGETS)
    for row in found.values():
        assert set(row) <= set(PAGE.COLUMNS)
        for cell in row.values():
            assert re.fullmatch(r"equal|refused: .+|\de-(0[6-9]|1\d)|\d+% \(\d+%\)", cell), row


def test_every_operator_has_a_row() -> None:
    """Those that are converted, each with what the tests know of it."""
    apart = {"ReLU", "FullPrecision", "Quantizer", "Neuron"}
    kept = {kind.__name__ for kind, rule in MODULES.items() if rule.kind is not Kind.REFUSED} - apart
    assert list(ROWS) == list(BY_OPERATOR.forms())
    assert kept <= set(ROWS)
    spiking = {name for name, rule in OPERATORS.items() if rule.kind not in {Kind.REFUSED, Kind.PLAIN, Kind.FOLDED}}
    assert spiking - set(ROWS) == {"masked_fill"}  # tried as a form of where
    for row in ROWS.values():
        assert set(row.values()) <= BY_OPERATOR.KNOWN


@pytest.mark.parametrize(
    "name", slow_but(["Conv2d", "MaxPool2d", "Linear", "add", "cat", "softmax", "mean", "where"], "Linear", "softmax")
)
def test_an_operator_reaches_what_its_row_says(name: str) -> None:
    found = BY_OPERATOR.row(BY_OPERATOR.forms()[name], slow=False)
    assert found == {target: cell for target, cell in ROWS[name].items() if target not in {"pt2", "onnx"}}


def test_rows_and_refusals_are_told() -> None:
    networks = {"a": {"hub": "equal", "spikingjelly": "refused: too old"}, "b": {"hub": "refused: too old"}}
    text = PAGE.page(networks, ROWS, PAGE.read("digits"))
    assert f"| a | refused (1) |{'  |' * 9} equal |\n| b |{'  |' * 10} refused (1) |" in text
    assert "\n1. too old\n" in text


def test_the_page_describes_every_target() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \| (?:SNN|QANN|all)", PAGE.HEAD, re.M)) == set(TARGETS)


@pytest.mark.parametrize("name", slow_but(["mlp", "lenet"], "lenet"))
def test_a_network_is_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PAGE, "first_of_kinds", set)
    kept = json.loads(PAGE.FILE.read_text(encoding="utf-8"))[name]
    assert PAGE.one(name) == {column: cell for column, cell in kept.items() if not column.startswith(("pt2", "onnx"))}
