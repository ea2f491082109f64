"""Write docs/exports.md: the result of every export target for every ordinary network of the tests.

python scripts/docs/exports.py measure           # write results/exports/networks.json, in some minutes, and the page
python scripts/docs/exports.py measure vit mlp   # measure these networks only, and use the stored results of the others
python scripts/docs/exports.py                   # write the page only, with the results of the two other scripts too
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "results" / "exports", ROOT / "docs" / "exports.md"
FILE = RESULTS / "networks.json"
STEPS, RATES = 9, 32
COLUMNS = (
    "spikingjelly", "snntorch", "brian2", "pynn", "nir-exact", "nir", "pt2, SNN", "pt2, QANN", "onnx, SNN",
    "onnx, QANN", "hub",
)  # fmt: skip
SLOW = 20_000
"""Networks with more synapses take minutes in PyNN; they are run in Brian 2 only."""

HEAD = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
"""The page without results; words in capitals stand for them."""


def measure(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the result of every target for every network; with names, measure these only and read the others."""
    sys.path.insert(0, str(ROOT / "tests"))
    from rich.progress import track

    from helpers.networks import NETWORKS

    torch.set_num_threads(1)
    stored = json.loads(FILE.read_text(encoding="utf-8")) if names else {}
    results = stored | {name: one(name) for name in track(names or list(NETWORKS), "networks")}
    return {name: results[name] for name in NETWORKS}


def one(name: str) -> dict[str, str]:
    """Return the result of every target for one network."""
    import qffs
    from helpers.networks import NETWORKS
    from qffs import export
    from qffs.export.target import apart
    from qffs.models.checkpoint import load
    from test_verification import quantized, spiking

    inputs, qann, snn = NETWORKS[name].inputs(), quantized(name), spiking(name)
    results = {each: tried(lambda each=each: simulated(name, getattr(export, each)(snn))) for each in COLUMNS[:2]}
    with tempfile.TemporaryDirectory() as folder:
        for each in ("brian2", "pynn"):
            cell = tried(lambda each=each: scripted(getattr(export, each), snn, inputs, Path(folder) / each))
            results |= {each: cell} if cell else {}
        path = Path(folder) / "network.nir"
        results["nir-exact"] = tried(lambda: exact(export.nir_exact(snn, path, STEPS, inputs)))
        results["nir"] = tried(lambda: lossy(export.nir(snn, path, RATES, "nir", inputs)))
        path = Path(folder) / "network.pt2"
        single = copy.deepcopy(qann).float()
        example = [x.float() if x.is_floating_point() else x for x in inputs]
        # These take long, so only one network of each kind is exported.
        for write in (export.pt2, export.onnx) if name in first_of_kinds() else ():
            for kind, network, steps in (("SNN", qffs.to_spiking(single), STEPS), ("QANN", single, None)):
                written = tried(lambda w=write, n=network, t=steps: shown(w(n, path, t, example).deviation))
                results[f"{write.__name__}, {kind}"] = written

        def through_a_folder() -> str:
            export.hub(snn, path.with_name("folder"))
            again = load(path.with_name("folder")).network
            return shown(apart(again(*inputs, steps=STEPS), snn(*inputs, steps=STEPS)))

        results["hub"] = tried(through_a_folder)
    return results


def scripted(write: Any, snn: Any, inputs: Any, folder: Path) -> str:
    """Return whether a simulator of neurons sends the network's spikes; empty if PyNN would take too long."""
    write(snn, folder, STEPS, inputs)
    with np.load(folder / "network.npz") as file:
        structure = json.loads(str(file["structure"]))
        count = sum(
            len(file[f"synapses {k}/weight"])
            for k, s in enumerate(structure["synapses"])
            if s["source"] not in structure["inputs"]
        )
    if write.__name__ == "pynn" and count > SLOW:
        return ""
    command = [sys.executable, "-W", "ignore", "run.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return "equal" if done.returncode == 0 and "all spikes are those of qffs" in done.stdout else "differs"


def exact(written: Any) -> str:
    """Return the result of `nir_exact`, which compares every spike."""
    assert written.deviation is not None
    return "equal"


def lossy(written: Any) -> str:
    """Return the loss of an approximation, and the loss if thresholds were subtracted."""
    import nir

    losses = json.loads(nir.read(written.path, type_check=False).metadata["qffs"])
    errors = (losses[key][-1]["error"] for key in ("measured", "measured if thresholds were subtracted"))
    return "{:.0%} ({:.0%})".format(*errors)


def first_of_kinds() -> set[str]:
    """Return the first network of each file of `tests/helpers/networks`."""
    from helpers import networks

    kinds = [each for name, each in vars(networks).items() if name.isupper() and each is not networks.NETWORKS]
    return {next(iter(each)) for each in kinds}


def tried(form: Any) -> str:
    """Return the result of a form, or the reason why it is refused."""
    from qffs.errors import QffsError

    try:
        return str(form())
    except QffsError as error:
        sentence, *named = str(error).splitlines()
        more = f", and {len(named) - 1} more" if len(named) > 1 else ""
        return f"refused: {(named or [sentence])[0]}{more}"


def simulated(name: str, network: Any) -> str:
    """Return whether all spikes of a simulator's network are equal to those of qffs."""
    from helpers.networks import NETWORKS
    from test_verification import run, spiking

    _, expected = run(name, STEPS, None)
    sent: dict[str, list[torch.Tensor]] = {path: [] for path in expected}
    for path, spikes in sent.items():
        network.get_submodule(f"network.{path}").register_forward_hook(lambda *a, to=spikes: to.append(a[-1]))
    for _ in range(STEPS):
        network(*NETWORKS[name].inputs())
    same = [torch.equal(torch.stack(sent[path]), expected[path] * n.threshold) for path, n in spiking(name).neurons()]
    return "equal" if all(same) else "differs"


def shown(deviation: float | None) -> str:
    """Return the text of a largest difference."""
    return "not run" if deviation is None else "equal" if deviation == 0 else f"{deviation:.0e}"


def page(networks: dict[str, dict[str, str]], operators: dict[str, dict[str, str]], digits: dict[str, Any]) -> str:
    """Return the whole page, from the results for networks, operators and the digits."""
    notes: dict[str, int] = {}
    lines = [f"| network | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
    for name, row in networks.items():
        cells = [row.get(each, "") for each in COLUMNS]
        for k, cell in enumerate(cells):
            if cell.startswith("refused: "):
                cells[k] = f"refused ({notes.setdefault(reason(cell), len(notes) + 1)})"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    reasons = [f"{number}. {why}" for why, number in notes.items()]
    itself = digits["average pooling, width 8"]["nir"]["nir"]["network itself"]["accuracy"]
    head = HEAD.replace("SIMULATORS", "\n".join(by_simulator(digits))).replace(
        "OPERATORS", "\n".join(by_row(operators))
    )
    head = head.replace("APPROXIMATIONS", "\n".join(by_profile(digits))).replace("RATES", str(RATES))
    head = head.replace("NETWORK", f"{itself:.1%}".replace("%", " %"))
    source = (
        "Written by `python scripts/docs/exports.py`, on 2 CPU cores, from what\n"
        "`python scripts/docs/exports.py measure`, "
        "`python scripts/docs/exports_of_operators.py` and\n`python scripts/docs/exports_of_digits.py` measured."
    )
    return "\n".join([head, *lines, "", *reasons, "", source, ""])


def reason(cell: str) -> str:
    """Return why a network is refused: the first reason, without the name of the node and the number of others."""
    why = re.sub(r", and \d+ more$", "", cell.removeprefix("refused: "))
    return re.sub(r"^\w+ \((.+?)\): ", r"`\1`: ", why)


def by_simulator(digits: dict[str, Any]) -> list[str]:
    """Return the table of the times that simulators take."""
    lines = [
        "| network of the digits | units | synapses | Brian 2, ten images | PyNN, ten images |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in digits.items():
        brian, pynn = row["simulators"]
        times = [f"{each['run_s']:.1f} s" if each.get("equal") else "not run" for each in (brian, pynn)]
        lines.append(f"| {name} | {brian['units']:,} | {brian['synapses']:,} | {' | '.join(times)} |")
    return [*lines, "", "(8 steps; with the construction of the network; all spikes equal.)"]


def by_profile(digits: dict[str, Any]) -> list[str]:
    """Return the table of the accuracy of each approximation, by step."""
    profiles = digits["average pooling, width 8"]["nir"]
    steps = [row["steps"] for row in profiles["nir"]["measured"]]
    lines = [f"| profile | {' | '.join(f'T = {t}' for t in steps)} |", f"|---{'|---:' * len(steps)}|"]
    for profile, each in profiles.items():
        for key, name in (("measured", f"`{profile}`"), (SUBTRACTED, f"`{profile}`, thresholds subtracted")):
            if key in each and (key == "measured" or profile == "spikingjelly"):
                cells = [f"{row['accuracy']:.1%}".replace("%", " %") for row in each[key]]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


SUBTRACTED = "measured if thresholds were subtracted"
SHOWN = {"equal": "equal", "lossy": "rates", "some": "some", "differs": "differs", "refused": "", None: ""}


def by_row(operators: dict[str, dict[str, str]]) -> list[str]:
    """Return the table of operators, with one row for all operators with the same results."""
    targets = ("spikingjelly", "snntorch", "brian2, pynn", "nir-exact", "nir", "pt2", "onnx")
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, row in operators.items():
        alike.setdefault(tuple(SHOWN[row.get(target)] for target in targets), []).append(f"`{name}`")
    lines = [f"| operators | {' | '.join(targets)} |", f"|---{'|---' * len(targets)}|"]
    for row, names in sorted(alike.items(), key=lambda item: (item[0].count(""), -len(item[1]))):
        lines.append(f"| {', '.join(names)} | {' | '.join(row)} |")
    return lines


def read(name: str) -> Any:
    """Return the stored results of this name."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        FILE.write_text(json.dumps(measure(sys.argv[2:]), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(read("networks"), read("operators"), read("digits")), encoding="utf-8")
