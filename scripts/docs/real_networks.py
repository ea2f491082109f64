"""Measure networks with published weights, and write the second part of docs/models.md from what was measured.

    python scripts/docs/real_networks.py measure                             # all networks: results/real/NAME.json
    python scripts/docs/real_networks.py measure resnet20 --images 1000 --bits 2 3
    python scripts/docs/real_networks.py                                     # write the page only

The weights and the images are in ../shared/data, those of EfficientNet-Lite0 in two packages. A network whose files are
missing is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from markdown_table import table
from page_parts import with_part
from real import NETWORKS
from real.measured import measured
from real.subject import Choice

from qffs.errors import QffsError
from qffs.runs.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results" / "real", ROOT / "docs" / "models.md"
SHOWN = (4, 8, 16)

HEAD = """# Networks with published weights

These networks come with weights that their authors trained. Nothing is trained here: each is quantized, its step sizes
are set by `qffs.calibrate` from 512 training images, and it is converted. This part is written by
`python scripts/docs/real_networks.py` from [`results/real/`](../results/real), where the same script with `measure`
puts what it measures. In each of them, the spike counts of all neurons are the levels of the quantized network on a few
test images, in float64 (`qffs.verify`).

FP is the network in full precision, QANN the quantized one, SNN the spiking one after T steps, with the charge schedule
of `qffs.to_spiking` (2^b - 1 steps at b bits: before that, not all of the image has arrived). `equal` is the share of
images on which the SNN predicts the class that its QANN predicts, after 8 steps and when it has settled (in float32,
where rounding may decide a unit at a tie). `settled` is the step after which no neuron fires any more on any image.
Spikes and energy are those of one image until then; the energy is that of the arithmetic, as `qffs energy` counts it.
"""

DETECTORS = """
There are no labels here: the table shows how far the outputs are from each other, in the order of the column `outputs`,
as averages over the images. `cosine` is the cosine similarity of the QANN's output to that of the network in full
precision, and `difference` their mean absolute difference, with the mean absolute value in full precision. `equal from`
is the step from which on all outputs of the SNN are those of its QANN on all images, but for rounding (in float64).
"""


def measure(name: str, choice: Choice, bits: list[int]) -> dict[str, Any] | None:
    """Return the results of a network, or None, after one sentence, where a file or a package for it is missing."""
    start = time.monotonic()
    try:
        subject = NETWORKS[name](choice)
    except QffsError as error:
        print(f"{name} is skipped: {error}", file=sys.stderr)
        return None
    torch.manual_seed(choice.seed)
    results = {"network": name, "seed": choice.seed} | measured(subject, bits)
    images = [] if choice.images is None else ["--images", str(choice.images)]
    seed = ["--seed", str(choice.seed)] if choice.seed else []
    words = ["python scripts/docs/real_networks.py measure", name, *images, "--bits", *map(str, bits), *seed]
    run = provenance(torch.device("cpu"), time.monotonic() - start)
    return results | {"run": run | {"command": " ".join(words)}}


def rows() -> list[dict[str, Any]]:
    """Return what was measured, in the order of `NETWORKS`."""
    paths = [RESULTS / f"{name}.json" for name in NETWORKS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def part(measurements: list[dict[str, Any]]) -> str:
    """Return the part of the page, with one section for each kind of data; empty without measurements."""
    if not measurements:
        return ""
    sections = [HEAD]
    for (data, outputs), group in groupby(measurements, key=lambda row: (row["data"], bool(row["outputs"]))):
        members = list(group)
        text = DETECTORS if outputs else ""
        lines = detectors(members) if outputs else classifiers(members)
        sections += [f"## {data}\n{text}", lines + "\n", "\n".join(map(how, members)) + "\n"]
    return "\n".join(sections)


def classifiers(measurements: list[dict[str, Any]]) -> str:
    """Return the table of classifiers, one row for each network and number of bits."""
    head = ["network", "images", "FP", "bits", "QANN", *(f"SNN, T = {t}" for t in SHOWN), "settled SNN"]
    head += ["equal, T = 8", "equal, settled", "settled", "spikes", "energy of FP and SNN", "ratio"]
    return table(head, [_row(each, of) for each in measurements for of in each["quantized"]])


def _row(measurement: dict[str, Any], of: dict[str, Any]) -> list[Any]:
    first = [measurement["network"], f"{measurement['images']:,}", _percent(measurement["full_precision"]["accuracy"])]
    if "reason" in of:
        return [*first, of["bits"], of["reason"], *10 * [None]]
    steps = {entry["steps"]: entry for entry in of["snn"]}
    last = of["snn"][-1]
    shown = [_percent(steps.get(t, last)["accuracy"]) for t in SHOWN]
    equal = [_percent(entry["agreement"]) for entry in (steps.get(8, last), last)]
    row = [*first, of["bits"], _percent(of["qann"]["accuracy"]), *shown, _percent(last["accuracy"]), *equal]
    return [*row, of["settled"], f"{last['spikes_per_image']:,.0f}", *_energy(of)]


def detectors(measurements: list[dict[str, Any]]) -> str:
    """Return the table of detectors, one row for each network and number of bits."""
    head = ["network", "images", "outputs", "bits", "cosine", "difference", "equal from", "settled", "spikes"]
    head += ["energy of FP and SNN", "ratio"]
    return table(head, [_detector(each, of) for each in measurements for of in each["quantized"]])


def _detector(measurement: dict[str, Any], of: dict[str, Any]) -> list[Any]:
    first = [measurement["network"], measurement["images"], ", ".join(measurement["outputs"]), of["bits"]]
    if "reason" in of:
        return [*first, of["reason"], *6 * [None]]
    cosine = ", ".join(f"{each['cosine']:.3f}" for each in of["qann"])
    difference = ", ".join(f"{each['difference']:.2g} of {each['size']:.2g}" for each in of["qann"])
    start = str(of["equal_from"]) if of["equal"] == 1 else f"{_percent(of['equal'])} of images"
    return [*first, cosine, difference, start, of["settled"], f"{of['spikes_per_image']:,.0f}", *_energy(of)]


def _energy(of: dict[str, Any]) -> list[str]:
    full, snn = (of["energy_pj"][network] for network in ("full precision", "SNN"))
    return [f"{full * 1e-6:,.1f} and {snn * 1e-6:,.1f} uJ", f"{snn / full:.2f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def how(measurement: dict[str, Any]) -> str:
    """Return the command, the images, the machine and the time of a measurement."""
    run = measurement["run"]
    return (
        f"- **{measurement['network']}**: `{run['command']}`  \n  {measurement['images']:,} images, "
        f"{measurement['calibration_images']} for calibration, {measurement['energy_images']} for energy, "
        f"seed {measurement['seed']}, {run['device']}, {run['threads']} threads, torch {run['versions']['torch']}, "
        f"{run['seconds'] / 60:.0f} min, commit {run['commit']}"
    )


def main(arguments: list[str]) -> None:
    """Measure networks, or write the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measuring = parser.add_subparsers(dest="command").add_parser("measure", help="measure networks")
    measuring.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; by default all")
    measuring.add_argument("--images", type=int, help="how many test images, evenly spread; by default all")
    measuring.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4], help="the bits of the activations")
    measuring.add_argument("--seed", type=int, default=0, help="chooses the calibration images")
    chosen = parser.parse_args(arguments)
    if chosen.command == "measure":
        unknown = [name for name in chosen.names if name not in NETWORKS]
        if unknown:
            parser.error(f"there is no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in chosen.names or NETWORKS:
            results = measure(name, Choice(chosen.images, chosen.seed), chosen.bits)
            if results is not None:
                (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    elif text := part(rows()):
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
