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
from real.measured import CALIBRATED, FLOAT32, PRECISIONS, Reconstruction, measured
from real.subject import Choice

from qffs.errors import QffsError
from qffs.measurement.energy import FULL_PRECISION, SNN
from qffs.runs.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results" / "real", ROOT / "docs" / "models.md"
SHOWN = (4, 8, 16)

HEAD = """# Networks with published weights

These networks come with weights that their authors trained. Each is quantized, calibrated by `qffs.calibrate` from
training images without labels, in some rows also reconstructed by `qffs.reconstruct` from the same images, and
converted. The number of images, the steps and the time are below each table. This part of the page is written by
`python scripts/docs/real_networks.py` from the files in [`results/real/`](../results/real), which the same script
writes when it measures. On a few test images of each network, the spike counts of all neurons were found to be the
levels of the quantized network (`qffs.verify`, in float64).

FP is the network in full precision, `calibrated` the quantized one with b bits after calibration, QANN the quantized
one after all that was done to it, and SNN the spiking one after T steps, all in % of the images. The charge schedule
has 2^b - 1 steps; before these, not all of an image has arrived. `equal` is the share of images, in %, on which the SNN
predicts the class that its QANN predicts: after 8 steps, and at the end. The end is the step after which no neuron
fires any more on any image. Spikes and energy are those of one image until the end; the energy is that of the
arithmetic, as `qffs energy` counts it, of the network in full precision and of the SNN.
In networks with depthwise convolutions the SNN can need more energy. Where two layers follow each other without a ReLU
between them, the second reads sums of spikes, which are values: a multiply-add at each synapse and step, where the
network in full precision has one at each synapse. A ReLU between the layers avoids it, and so do fewer bits.

Both networks compute in the precision that is named below the table. In float32, rounding decides a unit that is nearly
on a tie between two levels, and may decide differently in the two networks. In float64 such ties are very rare. The
outputs of SqueezeNet are averages of levels after a ReLU, so that those of two classes can be equal: then rounding
decides in either precision which of the two is predicted.
"""

DETECTORS = """
There are no labels here. Instead of accuracies, the table shows how far the outputs of the QANN are from those of the
network in full precision, as averages over the images, one number for each output in the order of the column `outputs`.
`cosine` is their cosine similarity, and `difference` their mean absolute difference, in % of the mean absolute value in
full precision. `equal from` is the step from which on all outputs of the SNN are those of its QANN on all images, but
for rounding. `boxes` are those of the network in full precision on all images, `SNN` those of the spiking network after
T = 2^b steps and at the end, and `same` how many of the former have their own box of the same class among the latter,
with an overlap (intersection over union) of at least 0.5.
"""


def measure(
    name: str,
    choice: Choice,
    bits: list[int],
    precision: str,
    reconstruction: Reconstruction = CALIBRATED,
    pictures: Path | None = None,
) -> dict[str, Any] | None:
    """Return the results of a network, or None, after one sentence, where a file or a package for it is missing."""
    start = time.monotonic()
    try:
        subject = NETWORKS[name](choice)
    except QffsError as error:
        print(f"{name} is skipped: {error}", file=sys.stderr)
        return None
    torch.manual_seed(choice.seed)
    made = measured(subject, bits, precision, reconstruction, pictures and pictures / name)
    results = {"network": name, "seed": choice.seed} | made
    images = [] if choice.images is None else ["--images", str(choice.images)]
    seed = ["--seed", str(choice.seed)] if choice.seed else []
    words = ["python scripts/docs/real_networks.py measure", name, *images, "--bits", *map(str, bits), *seed]
    words += [] if precision == FLOAT32 else ["--precision", precision]
    words += ["--steps", str(reconstruction.steps)] if reconstruction.steps else []
    words += ["--bfloat16"] if reconstruction.bfloat16 else []
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
    head = ["network", "images", "FP", "bits", "calibrated", "QANN", *(f"SNN, T = {t}" for t in SHOWN), "SNN, end"]
    head += ["equal, T = 8", "equal, end", "end", "spikes", "energy", "SNN / FP"]
    return table(head, [_classifier(each, of) for each in measurements for of in _by_bits(each)])


def _by_bits(measurement: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(measurement["quantized"], key=lambda of: int(of["bits"]))


def _classifier(measurement: dict[str, Any], of: dict[str, Any]) -> list[Any]:
    first = [measurement["network"], measurement["images"], 100 * measurement["full_precision"]["accuracy"], of["bits"]]
    if "reason" in of:
        return [*first, of["reason"], *11 * [None]]
    steps = {entry["steps"]: entry for entry in of["snn"]}
    last = of["snn"][-1]  # nothing changes after it
    accuracies = [
        of.get("calibrated", of["qann"])["accuracy"],
        of["qann"]["accuracy"],
        *(steps.get(t, last)["accuracy"] for t in SHOWN),
        last["accuracy"],
    ]
    equal = [steps.get(8, last)["agreement"], last["agreement"]]
    return [*first, *(100 * share for share in accuracies + equal), *_ending(of, last["spikes_per_image"])]


def detectors(measurements: list[dict[str, Any]]) -> str:
    """Return the table of detectors, one row for each network and number of bits."""
    head = ["network", "images", "outputs", "bits", "cosine", "difference", "equal from", "end", "spikes", "energy"]
    head += ["SNN / FP", "boxes", "SNN, 2^b", "same", "SNN, end", "same"]
    return table(head, [_detector(each, of) for each in measurements for of in _by_bits(each)])


def _detector(measurement: dict[str, Any], of: dict[str, Any]) -> list[Any]:
    first = [measurement["network"], measurement["images"], ", ".join(measurement["outputs"]), of["bits"]]
    if "reason" in of:
        return [*first, of["reason"], *11 * [None]]
    cosine = ", ".join(f"{each['cosine']:.3f}" for each in of["qann"])
    difference = ", ".join(f"{100 * each['difference'] / each['size']:.1f} %" for each in of["qann"])
    start = of["equal_from"] if of["equal"] == 1 else f"on {100 * of['equal']:.2f} % of the images only"
    boxes = [count for each in of["boxes"] for count in (each["snn"], each["same"])]
    ending = _ending(of, of["spikes_per_image"])
    return [*first, cosine, difference, start, *ending, of["boxes"][0]["full_precision"], *boxes]


def _ending(of: dict[str, Any], spikes: float) -> list[Any]:
    """Return the last cells of a row: the last step, spikes, the energy of both networks, and its ratio."""
    full, snn = (of["energy_pj"][network] for network in (FULL_PRECISION, SNN))
    return [of["settled"], f"{spikes:,.0f}", f"{full / 1e6:,.1f} and {snn / 1e6:,.1f} uJ", snn / full]


def how(measurement: dict[str, Any]) -> str:
    """Return the command, the images, the machine and the time of a measurement."""
    run, threads = measurement["run"], measurement["run"]["threads"]
    seconds = run["seconds"]
    words = [
        f"{measurement['images']:,} images of {' x '.join(map(str, measurement['shape'][1:]))}",
        f"{measurement['calibration_images']:,} for calibration",
        *_made(measurement["quantized"]),
        f"{measurement['energy_images']} for energy",
        f"{measurement['verified_images']} compared neuron by neuron",
        f"seed {measurement['seed']}",
        measurement["precision"],
        run["device"],
        f"{threads} thread{'s' if threads > 1 else ''}",
        f"torch {run['versions']['torch']}",
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
        f"commit {run['commit']}",
    ]
    return f"- **{measurement['network']}**: `{run['command']}`  \n  {', '.join(words)}"


def _made(quantized: list[dict[str, Any]]) -> list[str]:
    """Return how quantized networks were made, with the longest time that one took."""
    made = [of for of in quantized if "method" in of]
    if not made:
        return ["by LSQ's rule"]
    words = [f"by the method {made[0]['method']!r} in {max(of['calibration_seconds'] for of in made):.0f} s"]
    again = [of for of in made if of.get("steps")]
    if again:
        minutes = max(of["reconstruction_seconds"] for of in again) / 60
        where = " in bfloat16" if again[0].get("bfloat16") else ""
        words.append(f"{again[0]['steps']:,} steps of reconstruction{where} in {minutes:.1f} min")
    return words


def main(arguments: list[str]) -> None:
    """Measure networks, or write the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measuring = parser.add_subparsers(dest="command").add_parser("measure", help="measure networks")
    measuring.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; by default all")
    measuring.add_argument("--images", type=int, help="how many test images, evenly spread; by default all")
    measuring.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4], help="the bits of the activations")
    measuring.add_argument("--seed", type=int, default=0, help="chooses the calibration images")
    measuring.add_argument("--precision", choices=PRECISIONS, default=FLOAT32, help="what classifiers compute in")
    measuring.add_argument(
        "--steps", type=int, default=0, help="the steps of qffs.reconstruct; by default, it is not used"
    )
    measuring.add_argument("--bfloat16", action="store_true", help="compute these steps in bfloat16")
    measuring.add_argument("--pictures", type=Path, metavar="FOLDER", help="where boxes of detectors are drawn")
    chosen = parser.parse_args(arguments)
    if chosen.command == "measure":
        unknown = [name for name in chosen.names if name not in NETWORKS]
        if unknown:
            parser.error(f"there is no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
        reconstruction = Reconstruction(chosen.steps, chosen.bfloat16)
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in chosen.names or NETWORKS:
            choice = Choice(chosen.images, chosen.seed)
            results = measure(name, choice, chosen.bits, chosen.precision, reconstruction, chosen.pictures)
            if results is not None:
                (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    elif text := part(rows()):
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
