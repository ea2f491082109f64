"""The job that compares methods: each on the same network, data and budget of training."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from qffs.baselines import METHODS, Activation, Method, placed, started
from qffs.baselines.quantised import BITS
from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.graph.place import activations
from qffs.jobs.provenance import provenance
from qffs.jobs.start import Materials, about, device_of, materials, parts
from qffs.measure import accuracy, fitting, measure
from qffs.recipe import Recipe
from qffs.report.curves import draw
from qffs.report.findings import Cell, Findings, Panel, Series
from qffs.report.results import Results, to_json, write, write_text
from qffs.train import Setting, fit

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
CALIBRATED = 256
"""How many training images find thresholds."""


def compare(
    recipe: Recipe, folder: Path, methods: Sequence[str] = (), steps: Sequence[int] = STEPS, progress: bool = True
) -> Results:
    """Compare methods of `qffs.baselines.METHODS` (all by default) on the network and data of a recipe.

    The network is trained in full precision once, as the recipe says; then each method's own activations are trained
    for the recipe's quantised epochs, once for all methods that share them, from there. steps: the latencies T that are
    measured; those before a first read-out count. Writes ``compare.json``, ``compare.png`` and ``compare.svg`` to the
    folder. Raises `InvalidArgument` where there is no such method, a latency is no whole number of at least 1,
    or the recipe asks for other bits or outputs than methods are compared with.
    """
    chosen, steps = _methods(methods), _latencies(steps)
    _check(recipe, folder)
    device, began = device_of(recipe.device), time.monotonic()
    ready = materials(recipe, device, progress=progress)
    images, _, test = parts(recipe, ready.data)
    comparison = _Comparison(recipe, ready, images, test, progress)
    comparison.train(ready.network, "full precision", recipe.full_precision)
    rows = [row for activation, group in _by_activation(chosen) for row in comparison.rows(activation, group, steps)]
    own = accuracy(ready.network, test, ready.normalise, progress=progress)
    results: dict[str, Any] = {
        **about(recipe, ready.data, device), "images": len(test), "latencies": list(steps),
        "full_precision": {"accuracy": own},
        "methods": sorted(rows, key=lambda row: list(METHODS).index(row["method"])),
        "run": provenance(device, time.monotonic() - began),
    }  # fmt: skip
    found = findings(results)
    write_text(folder / "compare.json", to_json(results))
    for suffix in ("png", "svg"):
        write(folder / f"compare.{suffix}", lambda path: draw(found, title(results), path))
    return results | dataclasses.asdict(found)


def _check(recipe: Recipe, folder: Path) -> None:
    """Raise where a recipe asks for what methods decide, or a file stands where results are to be written."""
    asked = {"bits": recipe.bits != BITS, "output": recipe.output != "analog", "per_channel": recipe.per_channel}
    if others := [name for name, other in asked.items() if other]:
        raise InvalidArgument(
            f"methods are compared with {BITS} bits where they quantise, one step size a layer and an analog output: "
            f"leave out {', '.join(others)}"
        )
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file, where a folder is to be written: name another output")


def _methods(names: Sequence[str]) -> list[Method]:
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InvalidArgument(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names or METHODS)]


def _latencies(steps: Sequence[int]) -> list[int]:
    if not steps or not all(isinstance(step, int) and step >= 1 for step in steps):
        raise InvalidArgument(f"latencies must be whole numbers of at least 1, not {list(steps)}")
    return sorted(set(steps))


def _by_activation(methods: Sequence[Method]) -> Iterator[tuple[Activation, list[Method]]]:
    for activation in {method.activation.name: method.activation for method in methods}.values():
        yield activation, [method for method in methods if method.activation.name == activation.name]


class _Comparison:
    """What all methods share."""

    def __init__(self, recipe: Recipe, ready: Materials, images: Images, test: Images, progress: bool) -> None:
        self.recipe, self.ready, self.images, self.test, self.progress = recipe, ready, images, test, progress
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed))
        count = min(CALIBRATED, fitting(images, CALIBRATED))
        self.sample: Tensor = ready.normalise(images.read(order[:count]))

    def train(self, network: fx.GraphModule, label: str, training: Any, activation: Activation | None = None) -> None:
        """Train a network for some epochs."""
        penalty = None
        if activation is not None and activation.penalty is not None:
            added, modules = activation.penalty, [network.get_submodule(path) for path in activations(network)]
            penalty = lambda: added(modules)  # noqa: E731
        setting = Setting(
            label, self.recipe.precision, self.ready.augmentation, seed=self.recipe.seed,
            teacher=None if activation is None else self.ready.network.eval(),
            workers=self.recipe.workers, progress=self.progress, penalty=penalty,
        )  # fmt: skip
        fit(network, self.images, self.ready.normalise, training, setting)

    def rows(self, activation: Activation, methods: Sequence[Method], steps: Sequence[int]) -> Iterator[Results]:
        """What each method that trains with an activation gives."""
        network = placed(copy.deepcopy(self.ready.network), self.sample[:2], activation)
        self.train(started(network, activation, self.sample), activation.name, self.recipe.quantised, activation)
        own = accuracy(network, self.test, self.ready.normalise, progress=self.progress)
        for method in methods:
            yield {
                "method": method.name, "title": method.title, "source": method.source, "notes": method.notes,
                "activation": activation.name, "ann_accuracy": own,
                "by_latency": list(self._by_latency(method, network, steps)),
            }  # fmt: skip

    def _by_latency(self, method: Method, network: fx.GraphModule, steps: Sequence[int]) -> Iterator[Results]:
        """Accuracy and spikes at each latency that the method has."""
        wanted = [step - method.before for step in steps if step > method.before]
        runs = [[step] for step in wanted] if method.by_latency else [wanted]
        for run in filter(None, runs):
            snn = method.spiking(network, [self.sample], max(run))
            longest = max(*run, snn.schedule.steps)
            measured = measure(snn, self.test, self.ready.normalise, longest, progress=self.progress)
            for step in run:
                spikes = measured.spikes_per_image[step - 1]
                yield {"latency": step + method.before, "accuracy": measured.accuracy[step - 1], "spikes": spikes}


def title(results: Results) -> str:
    """What is compared on what."""
    return f"{results['model']} on {results['data']}, {results['images']:,} test images"


def findings(results: Results) -> Findings:
    """Accuracy and spikes against latency, as a table and two panels."""
    latencies = results["latencies"]
    rows: list[list[Cell]] = []
    accuracies: list[Series] = []
    spikes: list[Series] = []
    for each in results["methods"]:
        points = {point["latency"]: point for point in each["by_latency"]}
        shown = [100 * points[t]["accuracy"] if t in points else None for t in latencies]
        rows.append([each["title"], 100 * each["ann_accuracy"], *shown])
        accuracies.append(Series(each["title"], list(points), [100 * p["accuracy"] for p in points.values()]))
        sent = [point for point in points.values() if point["spikes"] >= 1]  # the axis has no zero
        spikes.append(Series(each["title"], [p["spikes"] for p in sent], [100 * p["accuracy"] for p in sent]))
    level = Series("full precision", [], [100 * results["full_precision"]["accuracy"]], "level")
    percent = "test images (%)"
    return Findings(
        ["method", "its ANN", *(f"T = {t}" for t in latencies)],
        rows,
        [
            Panel(
                "accuracy by latency",
                "time steps T, those before a read-out included",
                percent,
                [*accuracies, level],
                True,
            ),
            Panel("accuracy by spikes", "spikes an image", percent, spikes, True),
        ],
        [f"{each['title']}: {each['notes']}." for each in results["methods"] if each["notes"]],
    )
