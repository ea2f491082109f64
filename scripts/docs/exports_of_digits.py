"""Measure networks of the digits in other tools: the loss of NIR's approximations, and the time of Brian 2 and PyNN.

python scripts/docs/exports_of_digits.py   # write results/exports/digits.json, in some minutes on two cores
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FILE = Path(__file__).resolve().parents[2] / "results" / "exports" / "digits.json"
STEPS, IMAGES = 64, 10
NETWORKS = {"dense": 8, "average pooling, width 2": 2, "average pooling, width 8": 8, "max pooling, width 2": 2,
            "max pooling, width 8": 8}  # fmt: skip
SLOW = 100_000
"""Networks with more synapses take many minutes in PyNN."""


def network(name: str) -> nn.Module:
    """Return an untrained network for the digits."""
    from qffs.models import DigitsNet

    if name == "dense":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
        )
    return DigitsNet(width=NETWORKS[name], pooling="max" if "max" in name else "average")


def trained(name: str, digits: Any) -> tuple[nn.Module, Any]:
    """Return the quantized network with 2 bits and the spiking one, trained with seed 0."""
    import qffs

    torch.manual_seed(0)
    x, y = digits.normalize(digits.train.images), digits.train.labels
    model: Any = network(name)
    fitted(model, x, y, 15, 3e-3)
    qann: Any = qffs.calibrate(qffs.quantize(model.eval(), 2, example=x[:2]), [x[:256]], "lsq")
    fitted(qann, x, y, 10, 1e-3)
    return qann, qffs.to_spiking(qann)


def fitted(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """Train a model, and leave it in eval mode."""
    optimizer = torch.optim.Adam(model.train().parameters(), rate)
    for _ in range(epochs):
        for i in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[i]), y[i]).backward()
            optimizer.step()
    model.eval()


def approximated(snn: Any, x: Tensor, y: Tensor, folder: Path) -> dict[str, Any]:
    """Return the loss of each profile of NIR on the test images."""
    import nir

    from qffs import export
    from qffs.export.nir.write import PROFILES

    losses = {}
    for profile in PROFILES:
        export.nir(snn, folder / "network.nir", STEPS, profile, x, y)
        losses[profile] = json.loads(nir.read(folder / "network.nir").metadata["qffs"])
    return losses


def simulated(snn: Any, x: Tensor, folder: Path) -> list[dict[str, Any]]:
    """Return the times of the simulators for a few images, and whether their spikes equal the network's."""
    from qffs import export

    rows = []
    for target in ("brian2", "pynn"):
        start = time.perf_counter()
        getattr(export, target)(snn, folder / target, 8, x[:IMAGES])
        written = time.perf_counter() - start
        import numpy as np

        with np.load(folder / target / "network.npz") as file:
            structure = json.loads(str(file["structure"]))
            count = sum(
                len(file[f"synapses {k}/weight"])
                for k, s in enumerate(structure["synapses"])
                if s["source"] not in structure["inputs"]
            )
            units = sum(len(file[f"population {k}/bias"]) for k in range(len(structure["populations"])))
        row = {"simulator": target, "units": units, "synapses": count, "written_s": written}
        if target == "brian2" or count <= SLOW:
            command = [sys.executable, "-W", "ignore", "run.py"]
            done = subprocess.run(command, cwd=folder / target, capture_output=True, text=True, check=False)
            row["equal"] = done.returncode == 0 and "all spikes are those of qffs" in done.stdout
            row["run_s"] = float(re.search(r" spikes, (\S+) s", done.stdout)[1])
        rows.append(row)
    return rows


def main() -> None:
    """Measure everything, and write the results after each network."""
    from rich.progress import track

    from qffs.data import load

    warnings.simplefilter("ignore")
    digits = load("digits")
    x, y = digits.normalize(digits.test.images), digits.test.labels
    results: dict[str, Any] = {}
    for name in track(NETWORKS, "networks"):
        qann, snn = trained(name, digits)
        with torch.no_grad():
            row = {"qann": accuracy(qann(x), y), "snn": accuracy(snn(x, steps=8)[-1], y)}
        with tempfile.TemporaryDirectory() as folder:
            row["simulators"] = simulated(snn, x, Path(folder))
            if name == "average pooling, width 8":
                row["nir"] = approximated(snn, x, y, Path(folder))
        results[name] = row
        FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified correctly."""
    return float((outputs.argmax(1) == labels).double().mean())


if __name__ == "__main__":
    main()
