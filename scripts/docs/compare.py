"""Write docs/compare.md from results/compare/*.json, and add comparisons that `qffs compare` made.

python scripts/docs/compare.py add runs/compare digits   # add a comparison, and write the page
python scripts/docs/compare.py                           # write the page only
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from markdown_table import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PICTURES, PAGE = ROOT / "results" / "compare", ROOT / "docs" / "compare", ROOT / "docs" / "compare.md"

HEAD = """# Comparison of methods

`qffs compare RECIPE` runs every method of `qffs methods` on one network. All methods start from the same weights and
have the same data, test images and epochs of training, and the same code for neurons and graph. Latency counts every
step that a prediction needs, also the steps of a first run. An empty cell is a latency that a method does not have. "As
trained" is the network that a method trained, with its own activations, before conversion: its spiking network
approaches this accuracy as T grows. "Within 1 point" is the first T from which on the spiking network stays within one
point of it. Direct training has no such network: "as trained" is its spiking network after the number of steps of its
training, and an epoch takes that many times longer. Rate codes and direct training need average pooling, so the
networks here have it (`model_arguments={pooling: average}`, or only the pooling at the end). In a network with max
pooling, conversions take the maximum of counts, and direct training is left out.

Energy is the energy of the arithmetic, as in [measuring.md](measuring.md): a multiply-add (4.6 pJ) at each synapse of
the analog input, once, and an addition (0.9 pJ) at each synapse of each spike. Spikes of several levels, and averages
and sums of spikes, need multiply-adds. Energy is counted on 32 of the test images, spikes on all of them.

This page is written by `python scripts/docs/compare.py` from `results/compare/*.json`, which `qffs compare` wrote.
Older commands have the key `quantised`, which is `quantized` today; both are read.
"""


def add(folder: Path, name: str) -> None:
    """Copy the results that `qffs compare` wrote to a folder into the repository."""
    for path in (RESULTS, PICTURES):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "compare.json", RESULTS / f"{name}.json")
    shutil.copy(folder / "compare.png", PICTURES / f"{name}.png")


def comparisons() -> dict[str, dict[str, Any]]:
    """Return the results of all comparisons, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def page(by_name: dict[str, dict[str, Any]]) -> str:
    """Return the whole page, from the results of comparisons by name."""
    from qffs.studies.compare_findings import energies, findings, title
    from qffs.studies.paper.published import TABLE_3

    parts = [HEAD, methods()]
    for name, results in by_name.items():
        accuracies, run = findings(results), results["run"]
        parts.append(f"## {title(results)}\n\n![accuracy by latency, by spikes and by energy](compare/{name}.png)\n")
        full = f"Full precision, before any method trains: {100 * results['full_precision']['accuracy']:.2f} %."
        parts.append(f"Accuracy (%):\n\n{table(accuracies.head, accuracies.rows)}\n\n{full}\n")
        parts.append(published(results))
        parts.append(behind(results))
        head = ["method", *(f"T = {T}" for T in results["latencies"])]
        parts.append(f"Energy per image (µJ):\n\n{table(head, energies(results))}\n")
        parts.append("".join(f"{each['title']} is left out: {each['why']}.\n" for each in results["left_out"]))
        seconds = run["seconds"]
        duration = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        parts.append(
            f"`{run['command']}`  \n{run['device']}, {run['threads']} threads, commit {run['commit']}, {duration}.\n"
        )
    rows = [[each.method, each.data, each.network, each.ann, each.snn, each.steps] for each in TABLE_3]
    head = ["method", "data", "network", "ANN", "SNN", "steps"]
    parts.append(
        f"## Published results\n\nQuoted by Li, Ma and Furber (2022), not measured here:\n\n{table(head, rows)}\n"
    )
    return "\n".join(parts)


LARGEST = "thresholds are the largest currents that ever arrive, far above most currents, so rates are low"
SHORT = "its authors train for 100 epochs and more from scratch, and here it is a few epochs from trained weights"
LATE = {
    "spike-norm": f"{LARGEST}, and a spike sets the potential to zero, which loses the part above the threshold",
    "rmp": f"{LARGEST} and need many steps: its authors use 4,096",
    "tcl": "after so short a training, clips are still far above most activations",
    "ts": "clips are the largest activations of a trained network, far above most activations, and its authors train "
    "with a constant clip from scratch",
    "rnl": "clips follow the largest activations, which are far above most activations",
    **dict.fromkeys(("diet", "dspike", "sew"), "it was trained for few steps, and computes another function over more"),
    "srp": "neurons that the first run of 4 steps silences stay silent, however long the second run is",
    "fast-snn": "without a cap, neurons send more than their highest level, where the quantized activation was clipped",
}
"""Reasons why a spiking network is below its trained network, or reaches it late, by method."""
UNTRAINED = {
    **dict.fromkeys(("qcfs", "srp", "cos"), f"four levels between 0 and a clip are learned again, and {SHORT}"),
    "rnl": "the second training lowers all clips by one factor, which cuts off the largest activations",
    "diet": f"thresholds and weights change little at a learning rate of 1e-4; {SHORT}",
    "dspike": f"a potential with a leak of one half and reset preserves little of the trained network; {SHORT}",
    "sew": f"blocks that add spikes compute other functions than the trained blocks; {SHORT}",
    **dict.fromkeys(
        ("qffs", "fast-snn", "spikezip", "multi-level"), "two bits in every layer of a narrow network, and few epochs"
    ),
    "qffs-reconstructed": "two bits in every layer, and it sees the calibration images alone, without labels",
}
"""Reasons why a trained network is below the network with ReLUs after equal training, by method."""
BEHIND = 0.015
"""The smallest gap in accuracy that the page explains."""


def behind(results: dict[str, Any]) -> str:
    """Return the methods that stay behind by more than `BEHIND`, with the gap and the reason, as a list."""
    from qffs.studies.compare_findings import reached

    lines: list[str] = []
    trained_on = [each["trained_accuracy"] for each in results["methods"] if each["activation"] == "ReLU"]
    full = max([results["full_precision"]["accuracy"], *trained_on])
    for each in (method for method in results["methods"] if method["by_latency"]):
        trained, last = each["trained_accuracy"], each["by_latency"][-1]
        gaps = (
            (full - trained, "as trained, below ReLUs after equal training", UNTRAINED),
            (trained - last["accuracy"], f"at T = {last['latency']}, below the trained network", LATE),
        )
        lines += [f"- {each['title']}: {100 * gap:.1f} points {where}: {why.get(each['method'], 'not explained')}."
                  for gap, where, why in gaps if gap > BEHIND]  # fmt: skip
        first = reached(each)
        steps = min((one.steps for one in alike(results) if one.method == each["title"]), default=0)
        if first is not None and first > 2 * steps > 0:
            text = f"within a point of the trained network at T = {first}, where its authors report {steps}"
            lines.append(f"- {each['title']}: {text}: {LATE.get(each['method'], 'not explained')}.")
    return "Gaps of more than 1.5 points, and their reasons:\n\n" + "\n".join(lines) + "\n" if lines else ""


NETWORKS = {"cifar_resnet20": "ResNet-20", "cifar_resnet18": "ResNet-18", "cifar_vgg16": "VGG-16"}
"""The paper's names of the networks."""


def alike(results: dict[str, Any]) -> list[Any]:
    """Return the published rows for this network and data (CIFAR-10 without JPEG)."""
    from qffs.studies.paper.published import TABLE_3

    network, data = NETWORKS.get(results["model"]), f"{results['data']} "
    return [each for each in TABLE_3 if each.network == network and data.startswith(f"{each.data} ")]


def published(results: dict[str, Any]) -> str:
    """Return the published results as one line; empty if there are none."""
    texts = [f"{each.method} {each.ann:.2f} % as trained, {each.snn:.2f} % at T = {each.steps}"
             for each in alike(results)]  # fmt: skip
    return f"Published for this kind of network, not measured here: {'; '.join(texts)}.\n" if texts else ""


def methods() -> str:
    """Return the table of all methods, with the differences from their papers."""
    from qffs.studies.methods import METHODS

    rows = [[each.name, each.source, each.activation.name, each.says, each.notes] for each in METHODS.values()]
    return table(["method", "source", "trained with", "description", "differences here"], rows) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv[2]), sys.argv[3])
    PAGE.write_text(page(comparisons()), encoding="utf-8")
