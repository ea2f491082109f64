"""The networks of tables and figures: each is trained once, in a folder named after its recipe."""

from __future__ import annotations

import hashlib
import json
import os
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
"""The largest number of files of a folder whose contents are hashed; of larger folders, only names and sizes are."""
SHORTEST = 16
"""The least number of steps of a run; a run has at least ``2 n + 2`` steps, n the highest level of its layers."""


@dataclass(frozen=True)
class Trained:
    """A network on the shelf: its folder, its recipe and the results of its run."""

    folder: Path
    recipe: Recipe
    results: Results

    @property
    def qann(self) -> float:
        """The accuracy of the quantized network."""
        return float(self.results["qann"]["accuracy"])

    @property
    def charge_steps(self) -> int:
        """The charge steps D."""
        return len(self.results["charge_schedule"])

    @property
    def curve(self) -> list[float]:
        """The spiking network's accuracy after each step."""
        return [float(row["accuracy"]) for row in self.results["snn"]]

    def settled(self, within: float = 0.001) -> int | None:
        """Return the first step from which accuracy stays ``within`` the quantized network's; None if there is none."""
        # A difference of exactly ``within`` may be a little more in binary.
        late = [t for t, value in enumerate(self.curve, 1) if abs(value - self.qann) > within + 1e-9]
        first = max(late, default=0) + 1
        return first if first <= len(self.curve) else None

    def spiking(self) -> SpikingNetwork:
        """Return the spiking network, read from its checkpoint."""
        snn = load(self.folder / "snn").network
        assert isinstance(snn, SpikingNetwork)
        return snn


class Shelf:
    """A folder of networks that are variants of one recipe; variants share the training in full precision.

    All use the paper's charge schedule, D = 2^b - 1. A network in the folder is not trained again, and a run that was
    stopped continues. ``jobs``: how many networks are trained at once, as for `qffs.runs.parallel.train_all`.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, jobs: int | None = None, progress: bool = True) -> None:
        self.recipe, self.folder, self.jobs, self.progress = recipe, folder, jobs, progress
        self.used: set[Path] = set()

    def networks(self, *variants: Variant) -> list[Trained]:
        """Return the networks of these variants, in their order; train those that are missing."""
        bases = [self._base(variant) for variant in variants]
        train_all(dict(bases), jobs=self.jobs, progress=self.progress)
        runs = [self._variant(variant, folder) for variant, (folder, _) in zip(variants, bases, strict=True)]
        train_all(dict(runs), jobs=self.jobs, progress=self.progress)
        self.used.update(folder for folder, _ in (*bases, *runs))
        return [Trained(folder, recipe, train(recipe, folder, resume=True)) for folder, recipe in runs]

    @property
    def training_seconds(self) -> float:
        """The seconds that the runs of all networks took that `networks` returned."""
        runs = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in self.used]
        return float(sum(run["seconds"] for run in runs))

    def network(self, bits: int, output: int | str) -> Trained:
        """Return the network with these bits in hidden layers, and "analog" or bits in the output layer."""
        return self.networks(Variant(bits, output))[0]

    def _base(self, variant: Variant) -> tuple[Path, Recipe]:
        """Return the folder and the recipe of the run that trains the variant's network in full precision."""
        changes = {"bits": 2, "output": "analog", "steps": SHORTEST}
        return self._run("full-precision", self._recipe(variant, changes, {"epochs": 0}))

    def _variant(self, variant: Variant, base: Path) -> tuple[Path, Recipe]:
        """Return the folder and the recipe of the run that quantizes the variant."""
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
        """Return the accuracy after each step of a spiking network, on the test images of a network on the shelf."""
        device = torch.device("cuda" if trained.recipe.device != "cpu" and torch.cuda.is_available() else "cpu")
        data = load_data(trained.recipe.data, trained.recipe.size, progress=self.progress)
        test = parts_of(trained.recipe, data, trained.recipe.seed).test
        return list(measure(snn.to(device), test, normalizer(data, device), steps, progress=self.progress).accuracy)

    def _marks(self) -> str:
        """Return the hashes of data, weights and teacher, which do not depend on their folders."""
        paths = [self.recipe.data.rpartition(":")[2], *self.recipe.weight_files.values(), self.recipe.teacher]
        return "".join(mark(Path(os.path.expanduser(path or ""))) for path in paths)

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
        """Return the folder of a recipe's run, and the recipe; after: the name of the run that trained its weights."""
        text = without_paths(recipe).model_dump_json() + self._marks() + after
        return self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", recipe


def mark(path: Path) -> str:
    """Return a hash of a file, or of the names and sizes of all files in a folder; an empty text if there is neither.

    >>> mark(Path("nowhere"))
    ''
    """
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir() or path == Path():
        return ""
    files = sorted((str(each.relative_to(path)), each.stat().st_size) for each in path.rglob("*") if each.is_file())
    if len(files) <= SMALL:  # a checkpoint: only its weights may differ, and not their size
        return "".join(mark(path / name) for name, _ in files)
    return hashlib.sha256(repr(files).encode()).hexdigest()
