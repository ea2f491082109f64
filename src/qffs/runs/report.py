"""The page of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from qffs.errors import CheckpointError, DataError, InvalidArgument
from qffs.files import Results, check_replaceable, read_text, to_json, write_text
from qffs.recipes import read
from qffs.report.page import PageContents, check, page
from qffs.runs.convert import plan
from qffs.runs.folder import REPORTED, check_results, reserved
from qffs.runs.measure import Trial, energy, noise
from qffs.runs.provenance import command
from qffs.runs.same_data import check_same, listed
from qffs.runs.stored import read_origin, read_results

IMAGES = 256
"""The default number of test images on which noises and cost are counted: the simulation step by step is slow."""


def report(
    run: Path,
    output: Path | None = None,
    *,
    images: int | None = None,
    data: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Measure the noises and the cost of a run's spiking network, write a page with all results, and return its path.

    run: the folder that `qffs train` or `qffs demo` wrote; output: the file of the page, by default ``report.html`` in
    that folder; images: how many test images, by default `IMAGES`, or all if there are fewer; data: the data, if they
    are no longer where the recipe says. ``noise.json`` and ``energy.json`` are also written to the run's folder.

    Raises `InvalidArgument` if ``output`` is a folder or a file that is no report, or if the run was on other images,
    `CheckpointError` if ``run`` holds no results of a run, and `DataError` if the images cannot be read.
    """
    check()
    output = run / "report.html" if output is None else output
    if not (run / "results.json").exists():
        raise CheckpointError(f"{run} holds no results of a run: qffs train and qffs demo write them")
    results, origin = read_results(run / "results.json"), read_origin(run / "run.json")
    recipe = read(str(run / "recipe.yaml"), trust=True)  # no network is built from it
    check_results(results, recipe, run / "results.json")
    _check_outputs(run, output)
    trial = Trial(
        run / "snn",
        data=data or recipe.data,
        size=recipe.size,
        steps=results["snn"][-1]["steps"],
        images=min(results["images"], IMAGES) if images is None else images,
        device=device,
        seed=recipe.seed,
        progress=progress,
    )
    with reserved(run, command(sys.argv)):
        return _write(run, output, trial, results, origin)


def _check_outputs(run: Path, output: Path) -> None:
    """Raise `InvalidArgument` if the report would replace something else than an earlier one."""
    if output.is_dir():
        raise InvalidArgument(f"{output} is a folder, where the page is to be written: name a file")
    for name in REPORTED:
        path = output if name == "report.html" else run / name
        check_replaceable(path, "a file of qffs report", *REPORTED[name])
        if path is not output and path.resolve() == output.resolve():
            raise InvalidArgument(f"{output} is where the report writes its measurements: name another file")


def _write(run: Path, output: Path, trial: Trial, results: Results, origin: Results) -> Path:
    """Measure a trial, write the measurements to the folder of a run, and the page to ``output``."""
    try:
        images = listed(trial.data, trial.size, progress=trial.progress)["images"]  # their folder may be another one
        check_same(origin.get("fingerprints", {}), {"images": images}, trial.data, run)
        measured = {"noise": noise(trial), "energy": energy(trial)}
    except DataError as error:
        raise DataError(f"{error}; --data says where the images are") from error
    for name, part in measured.items():
        write_text(run / f"{name}.json", to_json(part))
    planned, _ = plan(str(run / "float"), progress=trial.progress)
    contents = PageContents(
        results=results,
        provenance={key: value for key, value in origin.items() if key != "fingerprints"},
        noise=measured["noise"],
        energy=measured["energy"],
        plan=planned,
        recipe=read_text(run / "recipe.yaml"),
        commands=_commands(run, trial),
    )
    return write_text(output, page(contents))


def _commands(run: Path, trial: Trial) -> list[str]:
    """Return the command lines that repeat the measurements and write the page again."""
    images = ["--data", trial.data, "--images", str(trial.images)]
    measuring = [str(run / "snn"), *images, "--steps", str(trial.steps)]
    measuring += ["--size", str(trial.size)] if trial.size is not None else []
    commands = (["noise", *measuring], ["energy", *measuring], ["report", str(run), *images])
    return [shlex.join(["qffs", *each]) for each in commands]
