"""Networks trained for tables and figures: each once, in a folder named after its recipe."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qffs.data import load as load_data
from qffs.files import Results
from qffs.measurement.accuracy import measure
from qffs.models.checkpoint import load
from qffs.recipes.recipe import Recipe
from qffs.runs.folder import without_paths
from qffs.runs.inputs import normalizer, parts_of
from qffs.runs.parallel import train_all
from qffs.runs.train import train
from qffs.spiking.network import SpikingNetwork
from qffs.studies.paper.variant import Variant

SMALL = 8
"""Files in a folder that are read whole to tell it from another."""
SHORTEST = 16
"""The least steps of a run; it has at least twice as many as the finest layer's highest level, and two more."""


@dataclass(frozen=True)
class Trained:
    """A network on the shelf: its folder, and what its run measured."""

    folder: Path
    recipe: Recipe
    results: Results

    @property
    def qann(self) -> float:
        """The accuracy of the quantized network."""
        return float(self.results["qann"]["accuracy"])

    @property
    def charge_steps(self) -> int:
        """D."""
        return len(self.results["charge_schedule"])

    @property
    def curve(self) -> list[float]:
        """The spiking network's accuracy after each step."""
        return [float(row["accuracy"]) for row in self.results["snn"]]

    def settled(self, within: float = 0.001) -> int | None:
        """The first step from which on accuracy stays so near the quantized network's; None where it ends elsewhere."""
        # Two accuracies so far apart differ by a little more or less in binary.
        late = [t for t, value in enumerate(self.curve, 1) if abs(value - self.qann) > within + 1e-9]
        first = max(late, default=0) + 1
        return first if first <= len(self.curve) else None

    def spiking(self) -> SpikingNetwork:
        """The spiking network."""
        snn = load(self.folder / "snn").network
        assert isinstance(snn, SpikingNetwork)
        return snn


class Shelf:
    """Networks that differ from a recipe in few things, in full precision trained once for all.

    All take the paper's charge schedule, D = 2^b - 1. What is on the shelf is taken from there; a run that was stopped
    goes on. ``jobs``: how many are trained at once, as `qffs.runs.parallel.train_all` takes it.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, jobs: int | None = None, progress: bool = True) -> None:
        self.recipe, self.folder, self.jobs, self.progress = recipe, folder, jobs, progress
        self.used: set[Path] = set()

    def networks(self, *variants: Variant) -> list[Trained]:
        """The networks of these variants, in their order."""
        bases = [self._base(variant) for variant in variants]
        train_all(dict(bases), jobs=self.jobs, progress=self.progress)
        runs = [self._variant(variant, folder) for variant, (folder, _) in zip(variants, bases, strict=True)]
        train_all(dict(runs), jobs=self.jobs, progress=self.progress)
        self.used.update(folder for folder, _ in (*bases, *runs))
        return [Trained(folder, recipe, train(recipe, folder, resume=True)) for folder, recipe in runs]

    @property
    def training_seconds(self) -> float:
        """What the runs of the networks took that were asked for."""
        runs = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in self.used]
        return float(sum(run["seconds"] for run in runs))

    def network(self, bits: int, output: int | str) -> Trained:
        """The one of these bits in hidden layers, and "analog" or bits in the output layer."""
        return self.networks(Variant(bits, output))[0]

    def _base(self, variant: Variant) -> tuple[Path, Recipe]:
        """The run whose network in full precision is the variant's."""
        changes = {"bits": 2, "output": "analog", "steps": SHORTEST}
        return self._run("full-precision", self._recipe(variant, changes, {"epochs": 0}))

    def _variant(self, variant: Variant, base: Path) -> tuple[Path, Recipe]:
        """The run that quantizes the variant."""
        bits, output = variant.bits, variant.output
        highest = 2 ** max(bits, 1 if isinstance(output, str) else output) - 1
        changes: dict[str, Any] = {
            "bits": bits,
            "output": output,
            "steps": max(SHORTEST, 2 * highest + 2),
            "weights": str(base / "float"),
            "full_precision": {**self.recipe.full_precision.model_dump(), "epochs": 0, "warmup_epochs": 0},
        }
        recipe = self._recipe(variant, changes, {})
        return self._run(f"{recipe.model}-{bits}bit-output-{output}", recipe, base.name)

    def accuracy(self, trained: Trained, snn: SpikingNetwork, steps: int) -> list[float]:
        """The accuracy of another spiking network of the same quantized one, on the same test images, by step."""
        device = torch.device("cuda" if trained.recipe.device != "cpu" and torch.cuda.is_available() else "cpu")
        data = load_data(trained.recipe.data, trained.recipe.size, progress=self.progress)
        test = parts_of(trained.recipe, data, trained.recipe.seed).test
        return list(measure(snn.to(device), test, normalizer(data, device), steps, progress=self.progress).accuracy)

    def _marks(self) -> str:
        """What tells data and weights apart, wherever they lie."""
        return "".join(mark(Path(path)) for path in (self.recipe.data.rpartition(":")[2], self.recipe.weights or ""))

    def _recipe(self, variant: Variant, changes: dict[str, Any], quantized: dict[str, Any]) -> Recipe:
        plain: dict[str, Any] = {"charge_steps": None, "candidates": [], "choose_at": None, "held_out": 0.0}
        values = self.recipe.model_dump() | plain | changes
        if variant.pooling is not None:
            values["model_arguments"] = values["model_arguments"] | {"pooling": variant.pooling}
        values["quantized"] = values["quantized"] | quantized
        if not values["quantized"]["epochs"]:
            values["quantized"]["warmup_epochs"] = 0
        return Recipe.of(values)

    def _run(self, name: str, recipe: Recipe, after: str = "") -> tuple[Path, Recipe]:
        """A recipe and the folder of its run; after: the name of the run that its weights are from."""
        text = without_paths(recipe).model_dump_json() + self._marks() + after
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", recipe


def mark(path: Path) -> str:
    """A hash of a file, or of the names and sizes of all files in a folder; nothing where there is neither.

    >>> mark(Path("nowhere"))
    ''
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir() or path == Path():
        return ""
    listed = sorted((str(each.relative_to(path)), each.stat().st_size) for each in path.rglob("*") if each.is_file())
    if len(listed) <= SMALL:  # a checkpoint: its weights may differ where nothing else does
        return "".join(mark(path / name) for name, _ in listed)
    return hashlib.sha256(repr(listed).encode()).hexdigest()
