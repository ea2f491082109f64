"""Writes docs/results.md and the heads of recipes from results/*.json, and takes a finished run in.

    python scripts/docs/results.py add runs/cifar10_resnet20 cifar10_resnet20   # a run, and the rest
    python scripts/docs/results.py                                              # the rest alone

A file that is named after a recipe is that recipe's own run; NAME_WORDS is one of NAME with changes, of which its head
tells where there is no own.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "src" / "qffs" / "recipes"
SHOWN = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48)

HEAD = """# Results

Every row is one run of `qffs train`, and this page is written by `python scripts/docs/results.py` from the files in
[`results/`](../results), which are the runs' own `results.json` and `run.json`. The test images were read once, at the
end of each run; what was chosen (charge schedules) was chosen on held-out training images. Accuracies on re-encoded
images, marked (JPEG), compare within this page only.

FP is the network in full precision, QANN the same with quantized activations, SNN the spiking network after T steps;
`equal` is the share of test images that the SNN classifies as its QANN does. Differences are in points. A spiking
output of b bits is read by counting its spikes, at most one a step: before T = 2^b - 1 it cannot have reached its
highest level, and classes tie.
"""


def add(run: Path, name: str) -> Path:
    """Put the results of a finished run into results/NAME.json."""
    said = {part: json.loads((run / f"{part}.json").read_text(encoding="utf-8")) for part in ("run", "results")}
    path = ROOT / "results" / f"{name}.json"
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return path


def rows() -> list[dict[str, Any]]:
    """All runs, by data, network, bits and output."""
    found = [
        json.loads(path.read_text(encoding="utf-8")) | {"name": path.stem} for path in (ROOT / "results").glob("*.json")
    ]
    return sorted(found, key=lambda row: (row["results"]["data"], row["name"]))


def page(runs: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for data, group in groupby(runs, key=lambda row: str(row["results"]["data"])):
        members = list(group)
        parts += [
            f"## {data}\n",
            summary(members),
            by_step(members),
            "### How\n",
            "\n".join(how(row) for row in members) + "\n",
        ]
    return "\n".join(parts)


def summary(runs: list[dict[str, Any]]) -> str:
    """One line a run: the three networks and what each step costs."""
    lines = [
        "| run | bits | output | FP | QANN | QANN - FP | SNN - QANN, T = 4 | T = 8 | equal at T = 8 |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in runs:
        told = row["results"]
        full, qann = told["full_precision"]["accuracy"], told["qann"]["accuracy"]
        steps = {entry["steps"]: entry for entry in told["snn"]}
        loss = [points(steps[t]["accuracy"] - qann) if t in steps else "" for t in (4, 8)]
        equal = percent(steps[8]["agreement"]) if 8 in steps else ""
        cells = [
            row["name"],
            told["bits"],
            output(told),
            percent(full),
            percent(qann),
            points(qann - full),
            *loss,
            equal,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def by_step(runs: list[dict[str, Any]]) -> str:
    """Accuracy of the spiking networks by step, of the steps that some run has."""
    found = [{entry["steps"]: entry["accuracy"] for entry in row["results"]["snn"]} for row in runs]
    shown = [t for t in SHOWN if any(t in steps for steps in found)]
    lines = ["SNN accuracy (%) after T steps:\n", f"| run | D | {' | '.join(map(str, shown))} |"]
    lines.append(f"|---|---|{'---:|' * len(shown)}")
    for row, steps in zip(runs, found, strict=True):
        cells = [f"{100 * steps[t]:.2f}" if t in steps else "" for t in shown]
        lines.append(f"| {row['name']} | {schedule(row['results'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def how(row: dict[str, Any]) -> str:
    """The command, the machine and the time of a run."""
    run, told = row["run"], row["results"]
    epochs = [len(told[part]["epochs"]) for part in ("full_precision", "qann")]
    return (
        f"- **{row['name']}**: `{run['command']}`  \n  {told['images']:,} test images, {epochs[0]} full-precision and "
        f"{epochs[1]} quantized epochs, seed {told['seed']}, {run['device']}, {run['seconds'] / 60:.0f} min, "
        f"commit {run['commit']}"
    )


def headed(recipe: str, runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The run that a recipe's head tells of: its own, else the one with changes whose name is shortest."""
    own = [row for row in runs if f"{row['name']}_".startswith(f"{recipe}_")]
    own = [row for row in own if row["run"]["command"].startswith(f"qffs train {recipe} ")]
    return min(own, key=lambda row: len(row["name"]), default=None)


def heading(row: dict[str, Any], recipe: str) -> list[str]:
    """What a recipe's head says of its run: the machine and the time, and what was measured."""
    run, told = row["run"], row["results"]
    steps = {entry["steps"]: entry["accuracy"] for entry in told["snn"]}
    snn = ", ".join(f"{percent(steps[t])} at T = {t}" for t in (4, 8, 16) if t in steps)
    other = "" if row["name"] == recipe else f"not as it stands, but as {row['name']} in docs/results.md: "
    return [
        f"# machine and time: {other}{run['device']}, {duration(run['seconds'])}",
        f"# measured: {other}{told['data']}, {told['images']:,} test images, seed {told['seed']}: full precision "
        f"{percent(told['full_precision']['accuracy'])}, QANN {percent(told['qann']['accuracy'])}, SNN {snn}",
    ]


def with_heading(text: str, row: dict[str, Any], recipe: str) -> str:
    """A recipe's text with the head of its run."""
    machine, measured = heading(row, recipe)
    text = re.sub("^# machine and time:.*$", lambda _: machine, text, count=1, flags=re.MULTILINE)
    return re.sub("^# measured:.*$", lambda _: measured, text, count=1, flags=re.MULTILINE)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def output(told: dict[str, Any]) -> str:
    return "analog" if told["output"] == "analog" else f"{told['output']} bits"


def schedule(told: dict[str, Any]) -> str:
    """The charge schedule: a number of steps, or weights."""
    weights = told["charge_schedule"]
    return str(len(weights)) if len(set(weights)) == 1 else ", ".join(f"{weight:g}" for weight in weights)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["add"]:
        add(Path(arguments[1]), arguments[2])
    found = rows()
    (ROOT / "docs" / "results.md").write_text(page(found), encoding="utf-8")
    for path in RECIPES.glob("*.yaml"):
        row = headed(path.stem, found)
        if row is not None:
            path.write_text(with_heading(path.read_text(encoding="utf-8"), row, path.stem), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
