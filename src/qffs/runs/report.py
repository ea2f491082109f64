"""The job that makes a page of a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from qffs.errors import CheckpointError, DataError, InvalidArgument
from qffs.runs.measure import energy, noise
from qffs.runs.convert import plan
from qffs.runs.measure import Trial
from qffs.measurement.energy import Energy
from qffs.recipes import read
from qffs.report.page import Materials, check, page
from qffs.files import Results, to_json, write_text

IMAGES = 256
"""On how many test images noises and cost are counted unless said otherwise: step by step takes time."""


def report(
    run: Path, output: Path | None = None, images: int | None = None, data: str | None = None, device: str = "auto",
    progress: bool = True,
) -> Path:  # fmt: skip
    """Measure noises and cost of a run's spiking network, and write all that is known of the run to one page.

    run: the folder that `qffs train` or `qffs demo` wrote; output: the page, by default ``report.html`` there; images:
    how many test images, by default `IMAGES` or all if there are fewer; data: where the images are, if no longer where
    the recipe says. ``noise.json`` and ``energy.json`` are written to the run's folder too. Returned: the page's path.
    """
    check()
    output = run / "report.html" if output is None else output
    if output.is_dir():
        raise InvalidArgument(f"{output} is a folder, where the page is to be written: name a file")
    results = _read(run / "results.json")
    if not isinstance(results, dict) or "snn" not in results:
        raise CheckpointError(f"{run} holds no results of a run: qffs train and qffs demo write them")
    recipe = read(str(run / "recipe.yaml"))
    count = min(results["images"], IMAGES) if images is None else images
    steps = results["snn"][-1]["steps"]
    trial = Trial(run / "snn", data or recipe.data, recipe.size, steps, count, None, device, recipe.seed, progress)
    try:
        measured = {"noise": noise(trial), "energy": energy(trial, Energy())}
    except DataError as error:
        raise DataError(f"{error}; --data says where the images are") from error
    for name, found in measured.items():
        write_text(run / f"{name}.json", to_json(found))
    planned, _ = plan(str(run / "float"), progress=progress)
    given = ["--data", trial.data, "--images", str(count)]
    measuring = [str(run / "snn"), *given, "--steps", str(steps)]
    measuring += ["--size", str(recipe.size)] if recipe.size is not None else []
    text = page(
        Materials(
            results,
            _read(run / "run.json") or {},
            measured["noise"],
            measured["energy"],
            planned,
            (run / "recipe.yaml").read_text(encoding="utf-8"),
            [
                shlex.join(["qffs", *each])
                for each in (["noise", *measuring], ["energy", *measuring], ["report", str(run), *given])
            ],
        )
    )
    return write_text(output, text)


def _read(path: Path) -> Results | None:
    """The data of a JSON file; None where there is none."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else None
