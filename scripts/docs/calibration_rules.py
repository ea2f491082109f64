"""Measure the rules of `qffs.calibrate`, and write the second part of docs/choosing.md from what was measured.

    python scripts/docs/calibration_rules.py measure resnet20 squeezenet1_1   # results/calibration/NAME.json
    python scripts/docs/calibration_rules.py                                  # write the page only

The networks are those of scripts/docs/real_networks.py. No test image is read: of the calibration images, one half
calibrates and the other half is predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from markdown_table import table
from page_parts import with_part
from real import NETWORKS
from real.subject import Choice, Subject
from torch import Tensor

import qffs
from qffs.errors import QffsError
from qffs.runs.provenance import provenance
from qffs.train.calibrate import METHODS
from qffs.train.error import error, sizes

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results" / "calibration", ROOT / "docs" / "choosing.md"
BITS = (2, 3, 4)
BATCH = 32

HEAD = """# The rules of calibration, compared

Each network is calibrated from one half of its calibration images, by each rule of `qffs.calibrate`, and predicts the
other half; nothing is trained. The cells are the share of images, in %, for which the quantized network predicts the
class that the network in full precision predicts, and in brackets the relative squared error of the outputs, in %. No
test image was read. This part of the page is written by `python scripts/docs/calibration_rules.py` from the files in
[`results/calibration/`](../results/calibration).
"""


def measured(subject: Subject) -> list[dict[str, Any]]:
    """Return one row for each number of bits and each rule."""
    pixels = subject.calibration[torch.randperm(len(subject.calibration), generator=torch.Generator().manual_seed(0))]
    batches = [subject.normalize(part) for part in pixels.split(BATCH)]
    half = len(batches) // 2
    batches, others = batches[:half], batches[half:]
    wanted = _outputs(subject.network, others)
    rows = []
    for bits in BITS:
        for method in METHODS:
            qann = qffs.quantize(subject.network, bits, example=batches[0])
            start = time.monotonic()
            qffs.calibrate(qann, batches, method)
            seconds = time.monotonic() - start
            outputs = _outputs(qann.eval(), others)
            rows.append(
                {
                    "bits": bits,
                    "method": method,
                    "agreement": float((outputs.argmax(1) == wanted.argmax(1)).double().mean()),
                    "error": float(error([outputs], [wanted], sizes((wanted,)))),
                    "seconds": round(seconds, 1),
                }
            )
    return rows


@torch.no_grad()
def _outputs(network: torch.nn.Module, batches: list[Tensor]) -> Tensor:
    return torch.cat([network(x) for x in batches])


def part(results: list[dict[str, Any]]) -> str:
    """Return the part of the page; empty without measurements."""
    if not results:
        return ""
    rows = []
    for each in results:
        for bits in BITS:
            of = {row["method"]: row for row in each["rows"] if row["bits"] == bits}
            cells = [f"{100 * of[m]['agreement']:.1f} ({100 * of[m]['error']:.1f})" for m in METHODS]
            times = f"{of['lsq']['seconds']:.0f} and {of['output']['seconds']:.0f} s"
            rows.append([each["network"], bits, *cells, times])
    lines = table(["network", "bits", *(f"`{method}`" for method in METHODS), "time, lsq and output"], rows)
    commands = [
        f"- **{each['network']}**: `{each['run']['command']}`, {each['images']} images, {each['run']['device']}, "
        f"{each['run']['threads']} threads, commit {each['run']['commit']}"
        for each in results
    ]
    return "\n".join([HEAD, lines, "", *commands, ""])


def read() -> list[dict[str, Any]]:
    """Return what was measured, in the order of `NETWORKS`."""
    paths = [RESULTS / f"{name}.json" for name in NETWORKS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def main(arguments: list[str]) -> None:
    """Measure networks, or write the page from what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measuring = parser.add_subparsers(dest="command").add_parser("measure", help="measure networks")
    measuring.add_argument("names", nargs="+", metavar="NAME", choices=list(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    chosen = parser.parse_args(arguments)
    if chosen.command == "measure":
        RESULTS.mkdir(parents=True, exist_ok=True)
        for name in chosen.names:
            start = time.monotonic()
            try:
                subject = NETWORKS[name](Choice(images=1))
            except QffsError as error:
                print(f"{name} is skipped: {error}", file=sys.stderr)
                continue
            if subject.outputs:
                parser.error(f"{name} is a detector: the rules are compared on classifiers")
            results = {"network": name, "images": len(subject.calibration), "rows": measured(subject)}
            run = provenance(torch.device("cpu"), time.monotonic() - start)
            run["command"] = f"python scripts/docs/calibration_rules.py measure {name}"
            path = RESULTS / f"{name}.json"
            path.write_text(json.dumps(results | {"run": run}, indent=1) + "\n", encoding="utf-8")
    elif text := part(read()):
        PAGE.write_text(with_part(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
