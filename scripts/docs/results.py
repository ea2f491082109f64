"""Write docs/results.md and the headers of recipes from results/*.json, and add a finished run.

    python scripts/docs/results.py add runs/cifar10_resnet20 cifar10_resnet20   # add a run, and write everything
    python scripts/docs/results.py                                              # write everything

A file with the name of a recipe is a run of that recipe as it is; NAME_WORDS is a run of the recipe NAME with changes.
NAME_seed1 and NAME_seed2 are the same run as NAME with other seeds; their mean is shown too.
The header of a recipe describes the former, or the latter if there is no run of the recipe as it is.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "src" / "qffs" / "recipes"
SHOWN = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48)

HEAD = """# Results

Every row is one run of `qffs train`. This page is written by `python scripts/docs/results.py` from the files in
[`results/`](../results), which contain the `results.json` and `run.json` of each run. The commands are those of the
runs; `quantised` in older ones is today's key `quantized`, and both are read. The test images were read once, at the
end of each run; charge schedules were chosen on held-out training images. Compare accuracies on re-encoded images,
marked (JPEG), within this page only.

FP is the network in full precision, QANN the network with quantized activations, SNN the spiking network after T steps.
`equal` is the share of test images that the SNN classifies as its QANN does. Differences are in points. The read-out of
a spiking output of b bits is its count of spikes, at most one per step: before T = 2^b - 1 it cannot reach its highest
level, and classes tie.
"""


def add(run: Path, name: str) -> Path:
    """Put the results of a finished run into results/NAME.json."""
    contents = {part: json.loads((run / f"{part}.json").read_text(encoding="utf-8")) for part in ("run", "results")}
    path = ROOT / "results" / f"{name}.json"
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return path


def rows() -> list[dict[str, Any]]:
    """Return all runs, in the order of data and name."""
    runs = [
        json.loads(path.read_text(encoding="utf-8")) | {"name": path.stem} for path in (ROOT / "results").glob("*.json")
    ]
    return sorted(runs, key=lambda row: (row["results"]["data"], row["name"]))


def page(runs: list[dict[str, Any]]) -> str:
    """Return the whole page."""
    parts = [HEAD]
    for data, group in groupby(runs, key=lambda row: str(row["results"]["data"])):
        members = list(group)
        tables = [summary(members), by_step(members), over_seeds(members)]
        parts += [f"## {data}\n", *filter(None, tables), "### How\n", "\n".join(map(how, members)) + "\n"]
    return "\n".join(parts)


def summary(runs: list[dict[str, Any]]) -> str:
    """Return a table with one row per run: the three networks and the differences between them."""
    lines = [
        "| run | bits | output | FP | QANN | QANN - FP | SNN - QANN, T = 4 | T = 8 | equal at T = 8 |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in runs:
        results = row["results"]
        full, qann = results["full_precision"]["accuracy"], results["qann"]["accuracy"]
        steps = {entry["steps"]: entry for entry in results["snn"]}
        loss = [points(steps[t]["accuracy"] - qann) if t in steps else "" for t in (4, 8)]
        equal = percent(steps[8]["agreement"]) if 8 in steps else ""
        cells = [
            row["name"],
            results["bits"],
            output(results),
            percent(full),
            percent(qann),
            points(qann - full),
            *loss,
            equal,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def by_step(runs: list[dict[str, Any]]) -> str:
    """Return the accuracy of the spiking networks by step, for the steps of `SHOWN` that some run has."""
    accuracies = [{entry["steps"]: entry["accuracy"] for entry in row["results"]["snn"]} for row in runs]
    shown = [t for t in SHOWN if any(t in steps for steps in accuracies)]
    lines = ["SNN accuracy (%) after T steps:\n", f"| run | D | {' | '.join(map(str, shown))} |"]
    lines.append(f"|---|---|{'---:|' * len(shown)}")
    for row, steps in zip(runs, accuracies, strict=True):
        cells = [f"{100 * steps[t]:.2f}" if t in steps else "" for t in shown]
        lines.append(f"| {row['name']} | {schedule(row['results'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def over_seeds(runs: list[dict[str, Any]]) -> str:
    """Return the mean and the standard deviation over the seeds of each recipe that ran with several; else no text."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in runs:
        groups.setdefault(re.sub("_seed[0-9]+$", "", row["name"]), []).append(row)
    shown = [t for t in (2, 4, 8) if any(t == entry["steps"] for row in runs for entry in row["results"]["snn"])]
    lines = [
        "Over seeds, mean ± standard deviation (%):\n",
        f"| run | seeds | FP | QANN | {' | '.join(f'SNN, T = {t}' for t in shown)} |",
        f"|---|---:|---:|---:|{'---:|' * len(shown)}",
    ]
    several = {name: members for name, members in groups.items() if len(members) > 1}
    for name, members in several.items():
        results = [row["results"] for row in members]
        cells = [spread([each[part]["accuracy"] for each in results]) for part in ("full_precision", "qann")]
        for t in shown:
            shares = [entry["accuracy"] for each in results for entry in each["snn"] if entry["steps"] == t]
            cells.append(spread(shares) if len(shares) == len(members) else "")
        lines.append(f"| {name} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if several else ""


def spread(shares: list[float]) -> str:
    """Return the mean and the standard deviation (of a sample) of shares, in percent.

    >>> spread([0.90, 0.91, 0.92])
    '91.00 ± 1.00'
    """
    return f"{100 * mean(shares):.2f} ± {100 * stdev(shares):.2f}"


def how(row: dict[str, Any]) -> str:
    """Return the command, the machine and the time of a run."""
    run, results = row["run"], row["results"]
    epochs = [len(results[part]["epochs"]) for part in ("full_precision", "qann")]
    return (
        f"- **{row['name']}**: `{run['command']}`  \n  {results['images']:,} test images, {epochs[0]} full-precision "
        f"and {epochs[1]} quantized epochs, seed {results['seed']}, {run['device']}, {run['seconds'] / 60:.0f} min, "
        f"commit {run['commit']}"
    )


def headed(recipe: str, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the run for a recipe's header: that of the recipe as it is, else the one with the shortest name."""
    candidates = [row for row in runs if f"{row['name']}_".startswith(f"{recipe}_")]
    candidates = [row for row in candidates if row["run"]["command"].startswith(f"qffs train {recipe} ")]
    return min(candidates, key=lambda row: len(row["name"]), default=None)


def heading(row: dict[str, Any], recipe: str) -> list[str]:
    """Return two lines of a recipe's header: the machine and the time of its run, and the results."""
    run, results = row["run"], row["results"]
    steps = {entry["steps"]: entry["accuracy"] for entry in results["snn"]}
    full, qann = (percent(results[part]["accuracy"]) for part in ("full_precision", "qann"))
    snn = ", ".join(f"{percent(steps[t])} at T = {t}" for t in (4, 8, 16) if t in steps)
    other = "" if row["name"] == recipe else f"with changes, as {row['name']} in docs/results.md: "
    return [
        f"# machine and time: {other}{run['device']}, {duration(run['seconds'])}",
        f"# measured: {other}{results['data']}, {results['images']:,} test images, seed {results['seed']}: "
        f"full precision {full}, QANN {qann}, SNN {snn}",
    ]


def with_heading(text: str, row: dict[str, Any], recipe: str) -> str:
    """Return a recipe's text with the header of a run."""
    machine, measured = heading(row, recipe)
    text = re.sub("^# machine and time:.*$", lambda _: machine, text, count=1, flags=re.MULTILINE)
    return re.sub("^# measured:.*$", lambda _: measured, text, count=1, flags=re.MULTILINE)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def output(results: dict[str, Any]) -> str:
    return "analog" if results["output"] == "analog" else f"{results['output']} bits"


def schedule(results: dict[str, Any]) -> str:
    """Return the charge schedule as text: a number of steps, or weights."""
    weights = results["charge_schedule"]
    return str(len(weights)) if len(set(weights)) == 1 else ", ".join(f"{weight:g}" for weight in weights)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["add"]:
        add(Path(arguments[1]), arguments[2])
    runs = rows()
    (ROOT / "docs" / "results.md").write_text(page(runs), encoding="utf-8")
    for path in RECIPES.glob("*.yaml"):
        row = headed(path.stem, runs)
        if row is not None:
            path.write_text(with_heading(path.read_text(encoding="utf-8"), row, path.stem), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
