"""Writes docs/compare.md from results/compare/*.json, and takes comparisons in that `qffs compare` made.

python scripts/docs/compare.py add runs/compare digits   # takes a comparison in, and writes the page
python scripts/docs/compare.py                           # the page alone
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KEPT, PICTURES, PAGE = ROOT / "results" / "compare", ROOT / "docs" / "compare", ROOT / "docs" / "compare.md"

HEAD = """# Methods, beside each other

`qffs compare RECIPE` runs every method of `qffs methods` on one network: the same weights to begin with, data, test
images and epochs of training for each, the same neurons and graph underneath. Latency counts every step that a
prediction needs, those of a first run too. An empty cell is a latency that a method does not have. "As trained" is the
network that a method trained, with its own activations, before it spikes: what its spiking network comes to as T
grows; "within 1 point" is the first T from which on it stays so near. Direct training has no such network: there it is
the spiking one at the steps that it trained with, and an epoch takes as many times longer. Rate codes and direct
training need average pooling, and so the networks here have it (`model_arguments={pooling: average}`, or no pooling but
that of the end); where a network pools the largest, conversions take the largest of counts, and direct training is left
out.

Energy is that of the arithmetic, as [measuring.md](measuring.md) has it: a multiply-add (4.6 pJ) at each synapse of the
analog input, once, and an addition (0.9 pJ) at each synapse of each spike; spikes of several levels, and what averages
and sums of spikes give, are multiplied. It is counted on 32 of the test images, spikes on all of them.

This page is written by `python scripts/docs/compare.py` from `results/compare/*.json`, which `qffs compare` wrote.
"""


def add(folder: Path, name: str) -> None:
    """Take what `qffs compare` wrote to a folder into the repository."""
    for path in (KEPT, PICTURES):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "compare.json", KEPT / f"{name}.json")
    shutil.copy(folder / "compare.png", PICTURES / f"{name}.png")


def kept() -> dict[str, dict[str, Any]]:
    """What was compared, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))}


def page(comparisons: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    from qffs.studies.compare_findings import energies, findings, title
    from qffs.studies.paper.published import TABLE_3

    parts = [HEAD, methods()]
    for name, results in comparisons.items():
        found, run = findings(results), results["run"]
        parts.append(f"## {title(results)}\n\n![accuracy by latency, by spikes and by energy](compare/{name}.png)\n")
        full = f"Full precision, before any method trains: {100 * results['full_precision']['accuracy']:.2f} %."
        parts.append(f"Test images classified rightly (%):\n\n{table(found.head, found.rows)}\n\n{full}\n")
        parts.append(published(results))
        parts.append(behind(results))
        head = ["method", *(f"T = {T}" for T in results["latencies"])]
        parts.append(f"Energy of an image (µJ):\n\n{table(head, energies(results))}\n")
        parts.append("".join(f"{each['title']} is left out: {each['why']}.\n" for each in results["left_out"]))
        seconds = run["seconds"]
        taken = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        parts.append(
            f"`{run['command']}`  \n{run['device']}, {run['threads']} threads, commit {run['commit']}, {taken}.\n"
        )
    rows = [[each.method, each.data, each.network, each.ann, each.snn, each.steps] for each in TABLE_3]
    head = ["method", "data", "network", "its ANN", "SNN", "steps"]
    parts.append(f"## Published\n\nWhat Li, Ma and Furber (2022) quote, not measured here:\n\n{table(head, rows)}\n")
    return "\n".join(parts)


LARGEST = "thresholds are the largest currents that ever arrive, far above most, so that rates are low"
SHORT = (
    "its authors train for 100 epochs and more from the beginning, where this is a few from another network's weights"
)
LATE = {
    "spike-norm": f"{LARGEST}, and a spike that sets the potential to zero loses what was above the threshold",
    "rmp": f"{LARGEST} and take many steps to be read: its authors take 4,096",
    "tcl": "heights that are trained for so short a time are still far above most activations",
    "ts": "heights are the largest activations of a network that was trained before, far above most, where its authors "
    "train with a constant from the beginning",
    "rnl": "heights follow the largest activations, which are far above most",
    **dict.fromkeys(("diet", "dspike", "sew"), "it was trained for few steps, and is another function of more of them"),
    "srp": "what a first run of 4 steps silences stays silent, however long the second one is",
    "fast-snn": "without a cap neurons send more than their highest level, where the quantized activation was clipped",
}
"""Why a spiking network is below what was trained, or comes to it late, by method."""
UNTRAINED = {
    **dict.fromkeys(("qcfs", "srp", "cos"), f"four levels between 0 and a height are learned anew, and {SHORT}"),
    "rnl": "the second training lowers all heights by one share, which cuts the largest activations off",
    "diet": f"thresholds and weights move little at a learning rate of 1e-4; {SHORT}",
    "dspike": f"a potential that halves at every step and is reset keeps little of what was trained before; {SHORT}",
    "sew": f"blocks that add up spikes are other functions than those that were trained before; {SHORT}",
    **dict.fromkeys(
        ("qffs", "fast-snn", "spikezip", "multi-level"), "two bits in every layer of a narrow network, and few epochs"
    ),
}
"""Why what was trained is below ReLUs that were trained as long, by method."""
BEHIND = 0.015
"""From how much on it is said."""


def behind(results: dict[str, Any]) -> str:
    """What stays behind, by how much and why, as a list."""
    from qffs.studies.compare_findings import reached

    lines: list[str] = []
    trained_on = [each["trained_accuracy"] for each in results["methods"] if each["activation"] == "ReLU"]
    full = max([results["full_precision"]["accuracy"], *trained_on])
    for each in (method for method in results["methods"] if method["by_latency"]):
        trained, last = each["trained_accuracy"], each["by_latency"][-1]
        gaps = (
            (full - trained, "as trained, below ReLUs trained as long", UNTRAINED),
            (trained - last["accuracy"], f"at T = {last['latency']}, below what was trained", LATE),
        )
        lines += [f"- {each['title']}: {100 * gap:.1f} points {where}: {why.get(each['method'], 'not explained')}."
                  for gap, where, why in gaps if gap > BEHIND]  # fmt: skip
        found = reached(each)
        steps = min((one.steps for one in alike(results) if one.method == each["title"]), default=0)
        if found is not None and found > 2 * steps > 0:
            told = f"within a point of what was trained at T = {found}, where its authors report {steps}"
            lines.append(f"- {each['title']}: {told}: {LATE.get(each['method'], 'not explained')}.")
    return "What stays behind by more than 1.5 points, and why:\n\n" + "\n".join(lines) + "\n" if lines else ""


NETWORKS = {"cifar_resnet20": "ResNet-20", "cifar_resnet18": "ResNet-18", "cifar_vgg16": "VGG-16"}
"""As the paper writes them."""


def alike(results: dict[str, Any]) -> list[Any]:
    """What was published of such a network and data, of CIFAR-10 as it is."""
    from qffs.studies.paper.published import TABLE_3

    network, data = NETWORKS.get(results["model"]), f"{results['data']} "
    return [each for each in TABLE_3 if each.network == network and data.startswith(f"{each.data} ")]


def published(results: dict[str, Any]) -> str:
    """The same as a line."""
    told = [f"{each.method} {each.ann:.2f} % as trained, {each.snn:.2f} % at T = {each.steps}"
            for each in alike(results)]  # fmt: skip
    return f"Published, not measured here, of this kind of network: {'; '.join(told)}.\n" if told else ""


def methods() -> str:
    """All methods, and what is otherwise here."""
    from qffs.studies.methods import METHODS

    rows = [[each.name, each.source, each.activation.name, each.says, each.notes] for each in METHODS.values()]
    return table(["method", "source", "trained with", "what it does", "otherwise here"], rows) + "\n"


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Rows as Markdown, numbers to the right."""
    marks = ["---" if isinstance(cell, str) else "---:" for cell in rows[0]]
    lines = [head, marks, *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: object) -> str:
    """A cell; numbers that are no whole ones with two decimals."""
    return "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), sys.argv[3])
    PAGE.write_text(page(kept()), encoding="utf-8")
