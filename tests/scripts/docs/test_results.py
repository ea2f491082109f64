"""docs/results.md and the heads of recipes say what the runs in results/ measured, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import scripted
from helpers.places import ROOT


@pytest.fixture(scope="module")
def script() -> Any:
    return scripted.script("results")


def test_the_page_is_that_of_the_runs(script: Any) -> None:
    rows = script.rows()
    assert rows
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == script.page(rows)
    for path in script.RECIPES.glob("*.yaml"):
        text, row = path.read_text(encoding="utf-8"), script.headed(path.stem, rows)
        assert f"# qffs train {path.stem}" in text
        assert (row is None) == ("# measured: not yet run to the end here" in text)
        if row is not None:
            assert text == script.with_heading(text, row, path.stem)


def test_a_recipe_tells_of_its_own_run_or_of_the_nearest(script: Any) -> None:
    def run(name: str, recipe: str) -> dict[str, Any]:
        return {"name": name, "run": {"command": f"qffs train {recipe} seed=1"}}

    runs = [run("pets_wide_late", "pets"), run("pets_wide", "pets"), run("petshop", "petshop"), run("pets_2", "zoo")]
    assert script.headed("pets", runs) is runs[1]
    assert script.headed("pets", [*runs, run("pets", "pets")])["name"] == "pets"
    assert script.headed("zoo", runs) is None


def test_every_figure_has_its_command_commit_and_device(script: Any) -> None:
    for row in script.rows():
        assert row["run"]["command"].startswith("qffs train ")
        assert row["run"]["seconds"] > 0
        assert row["run"]["device"]
        assert row["run"]["commit"]
        assert not row["run"]["commit"].endswith("-dirty")


def test_runs_that_differ_in_their_seed_have_a_mean(script: Any) -> None:
    def run(name: str, accuracy: float) -> dict[str, Any]:
        snn = [{"steps": t, "accuracy": accuracy - 0.01 * (4 - t)} for t in (2, 4)]
        return {
            "name": name,
            "results": {"snn": snn, "qann": {"accuracy": accuracy}, "full_precision": {"accuracy": 1}},
        }

    runs = [run("pets", 0.90), run("pets_seed1", 0.91), run("pets_seed2", 0.92), run("pets_seedless", 0.5)]
    text = script.over_seeds(runs)
    assert "| pets | 3 | 100.00 ± 0.00 | 91.00 ± 1.00 | 89.00 ± 1.00 | 91.00 ± 1.00 |" in text
    assert "seedless" not in text
    assert script.over_seeds([runs[0], runs[3]]) == ""
    del runs[1]["results"]["snn"][0]  # not all have T = 2
    assert "| pets | 3 | 100.00 ± 0.00 | 91.00 ± 1.00 |  | 91.00 ± 1.00 |" in script.over_seeds(runs)


def test_a_row_is_read_rightly(script: Any) -> None:
    snn = [{"steps": t, "accuracy": 0.5 + t / 100, "agreement": 0.9} for t in range(1, 9)]
    told = {"data": "pets", "images": 1000, "seed": 3, "bits": 2, "output": 3, "charge_schedule": [0.5, 0.25, 0.25]}
    told |= {
        "snn": snn,
        "full_precision": {"accuracy": 0.6, "epochs": [1]},
        "qann": {"accuracy": 0.58, "epochs": [1, 2]},
    }
    run = {"command": "qffs train pets", "seconds": 600, "device": "a machine", "commit": "abc"}
    page = script.page([{"name": "pets", "run": run, "results": told}])
    assert "| pets | 2 | 3 bits | 60.00 % | 58.00 % | -2.00 | -4.00 | +0.00 | 90.00 % |" in page
    assert "| pets | 0.5, 0.25, 0.25 | 51.00 | 52.00 | 53.00 | 54.00 | 55.00 | 56.00 | 58.00 |" in page
    assert "1 full-precision and 2 quantized epochs, seed 3, a machine, 10 min, commit abc" in page
    measured = (
        "# measured: pets, 1,000 test images, seed 3: full precision 60.00 %, QANN 58.00 %, "
        "SNN 54.00 % at T = 4, 58.00 % at T = 8"
    )
    row = {"name": "pets", "run": run, "results": told}
    assert script.heading(row, "pets") == ["# machine and time: a machine, 10 min", measured]
    other = "with changes, as pets_few in docs/results.md: "
    assert script.heading(row | {"name": "pets_few"}, "pets") == [
        f"# machine and time: {other}a machine, 10 min",
        measured.replace("pets,", f"{other}pets,"),
    ]
