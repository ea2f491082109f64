"""docs/networks.md says what the cards say, and a network is added with its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import scripted
from qffs.models import trained
from qffs.models.load import load


@pytest.fixture(scope="module")
def script() -> Any:
    return scripted.script("networks")


def test_the_page_is_that_of_the_cards(script: Any) -> None:
    cards = {name: trained.card(name) for name in trained.names()}
    assert script.PAGE.read_text(encoding="utf-8") == script.page(cards)
    assert set(cards) <= set(script.ENTRIES)


def test_every_network_has_its_command_commit_and_device() -> None:
    for name in trained.names():
        run = trained.card(name)["run"]
        assert run["command"].startswith("qffs train ")
        assert run["seconds"] > 0
        assert run["device"]
        assert not run["commit"].endswith("-dirty")


def test_a_network_is_added_from_a_run(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, card = tmp_path / "run", trained.card("digits-2bit")
    for kind, name in (("qann", "digits-2bit"), ("float", "digits")):
        (run / kind).mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (run / kind / file).write_bytes((trained.FOLDER / name / file).read_bytes())
    (run / "results.json").write_text(json.dumps(card["results"] | {"layers": [1, 2, 3]}))
    (run / "run.json").write_text(json.dumps(card["run"]))
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "networks")
    script.add(run, "digits-2bit")
    script.add(run, "digits")
    assert trained.names() == ("digits", "digits-2bit")
    assert trained.card("digits-2bit") == card
    assert load("digits").kind == "float"
    assert set(trained.card("digits")["results"]) == {"model", "data", "images", "full_precision", "seed"}
    assert "| `digits` | network of two convolutions | digits | 99.33 |" in script.page(
        {name: trained.card(name) for name in trained.names()}
    )
