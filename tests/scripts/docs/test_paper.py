"""docs/paper.md says what results/paper holds, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import scripted
from helpers.places import ROOT
from qffs.studies.paper.items import ITEMS


@pytest.fixture(scope="module")
def script() -> Any:
    return scripted.script("paper")


def test_the_page_is_that_of_what_was_made(script: Any) -> None:
    items = script.items()
    assert items
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert text == script.page(items)
    for item in items:
        assert not item["panels"] or (script.PICTURES / f"{item['item']}.png").exists()
        assert f"`{item['run']['command']}`" in text
        assert not str(item["run"]["commit"]).endswith("-dirty")
    assert tuple(ITEMS) == script.ORDER


def test_rows_and_what_is_missing_are_told(script: Any) -> None:
    item = {
        "item": "fig6",
        "title": "Bits",
        "paper": "More.",
        "panels": [{}],
        "notes": ["So."],
        "recipe": {"model": "net"},
    }
    run = {"training_seconds": 90.0, "command": "qffs paper fig6", "device": "a chip", "threads": 2, "commit": "abc"}
    text = script.page([item | {"run": run, "head": ["a", "b"], "rows": [["x", 1.234], ["y", None]]}])
    assert "## Figure 6: Bits" in text
    assert "| a | b |\n| --- | ---: |\n| x | 1.23 |\n| y |  |" in text
    assert "![Bits](paper/fig6.png)" in text
    assert "`qffs paper fig6`  \nnet, a chip, 2 threads, commit abc; its networks took 90 s to train" in text
    assert "Not made yet: table3, table4, fig1, fig3, fig4, fig5, fig7, fig8, fig9." in text
