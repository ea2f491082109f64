"""The files of a table or figure: its results as JSON, and a figure as PNG and SVG."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from qffs.errors import InvalidArgument
from qffs.files import Results, to_json, write, write_text
from qffs.recipes.recipe import Recipe
from qffs.report.plots import draw
from qffs.runs.folder import reserved
from qffs.runs.inputs import device_of
from qffs.runs.outputs import check_set
from qffs.runs.provenance import command, provenance
from qffs.studies.paper.items import ITEMS
from qffs.studies.paper.shelf import Shelf


def make(name: str, recipe: Recipe, folder: Path, *, jobs: int | None = None, progress: bool = True) -> Results:
    """Make a table or figure of `ITEMS` from networks of a recipe, and return its results.

    Networks that are not yet in ``folder/networks`` are trained and written there. Writes the results to ``NAME.json``
    in ``folder`` and, if there are panels, the figure to ``NAME.png`` and ``NAME.svg``. ``jobs``: how many networks are
    trained at once, as for `qffs.runs.parallel.train_all`. Raises `InvalidArgument` if there is no such item.
    """
    if name not in ITEMS:
        raise InvalidArgument(f"there is no {name!r} to make; there are {', '.join(ITEMS)}")
    written = check_set(folder / f"{name}.json", "qffs paper", b"item", b"paper")
    with reserved(folder, command(sys.argv), written=written):
        return _make(name, recipe, folder, jobs=jobs, progress=progress)


def _make(name: str, recipe: Recipe, folder: Path, *, jobs: int | None, progress: bool) -> Results:
    item, start = ITEMS[name], time.monotonic()
    shelf = Shelf(recipe, folder / "networks", jobs=jobs, progress=progress)
    findings = item.find(shelf)
    results: dict[str, Any] = {"item": name, "title": item.title, "paper": item.paper}
    results |= {"recipe": recipe.model_dump(mode="json"), **dataclasses.asdict(findings)}
    results["run"] = provenance(device_of(recipe.device), time.monotonic() - start)
    results["run"]["training_seconds"] = round(shelf.training_seconds, 1)
    for suffix in ("png", "svg"):  # a figure is never beside other results
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    write_text(folder / f"{name}.json", to_json(results))
    if findings.panels:
        for suffix in ("png", "svg"):
            write(folder / f"{name}.{suffix}", lambda path: draw(findings, item.title, path))
    return results
