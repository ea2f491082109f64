"""The part of a comparison with one seed: methods on one network are trained and measured."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from qffs.data import Images
from qffs.errors import InvalidArgument, NotConvertible, QffsError
from qffs.files import Results
from qffs.graph.replace import activations
from qffs.measurement.accuracy import accuracy, measure
from qffs.measurement.batches import fitting
from qffs.measurement.cost import cost
from qffs.nn.inspect import digest
from qffs.recipes.recipe import Recipe, Training
from qffs.runs.inputs import about, device_of, run_inputs
from qffs.runs.provenance import commit
from qffs.spiking.network import SpikingNetwork
from qffs.studies.compare_cache import RowCache
from qffs.studies.methods.first_run import FirstRun
from qffs.studies.methods.method import Activation, Method, over_time, placed, started
from qffs.train.loop import Setting, fit
from qffs.train.state import Interruption, RunState

CALIBRATED, COSTED, ADAPTED = 256, 32, 64
"""The numbers of images: for thresholds (training), for energy (test), and for adapting an activation (training)."""


@dataclass(frozen=True)
class Trained:
    """A network that was trained with an activation, its accuracy with that activation, and the seconds of training."""

    network: fx.GraphModule
    accuracy: float
    seconds: float


class SeedComparison:
    """The comparison with one seed: the network in full precision, its images, and the rows measured before.

    base: the recipe, whose seed chooses the test images, the same for all seeds; latencies: the T that are measured.
    """

    def __init__(
        self,
        base: Recipe,
        seed: int,
        folder: Path,
        *,
        latencies: Sequence[int],
        interruption: Interruption,
        progress: bool,
    ) -> None:
        self.recipe = recipe = base.model_copy(update={"seed": seed})
        self.latencies, self.interruption, self.progress = list(latencies), interruption, progress
        self.inputs = run_inputs(recipe, device_of(recipe.device), parts_seed=base.seed, progress=progress)
        self.images, self.test = self.inputs.parts.train, self.inputs.parts.test
        self.about = {
            **about(base, self.inputs.data, self.inputs.device),
            "images": len(self.test),
            "latencies": self.latencies,
        }
        cache_key = {
            "recipe": base.model_dump(mode="json"),
            **self.inputs.fingerprints,
            "commit": commit(),
            "versions": self.about["versions"],
            "network": digest(self.inputs.network),
        }
        self.cache = RowCache(folder, seed, cache_key)
        generator = torch.Generator().manual_seed(seed)
        count = min(CALIBRATED, fitting(self.images, CALIBRATED))
        numbers = torch.randperm(len(self.images), generator=generator)[:count]
        self.sample: Tensor = self.inputs.normalize(self.images.read(numbers))
        self.labels = self.images.labels[numbers].to(self.inputs.device)
        order = torch.randperm(len(self.test), generator=torch.Generator().manual_seed(base.seed))
        self.few: Images = self.test.select(order[:COSTED].sort().values)

    def unusable(self, methods: Sequence[Method], named: bool) -> list[Results]:
        """Return an entry for each method that cannot train the network; if ``named``, raise the first error."""
        rows = []
        for method in methods:
            try:
                method.activation.installed()
                if method.activation.steps:
                    placed(self.inputs.network, self.sample[:2], method.activation)
            except (InvalidArgument, NotConvertible) as error:
                if named:
                    raise
                rows.append(left_out(method, error))
        return rows

    def trained(self) -> float:
        """Train the network in full precision, and return its accuracy on test images."""
        network = self.inputs.network
        self._train(network, "full precision", self.recipe.full_precision, teacher=None)
        return accuracy(network, self.test, self.inputs.normalize, progress=self.progress)

    def rows(self, activation: Activation, methods: Sequence[Method]) -> Iterator[Results]:
        """Yield the row of each method; all of them train with this activation. Rows in the cache are not repeated."""
        rows = {method.name: self.cache.read(method.name, self.latencies) for method in methods}
        trained = None if all(rows.values()) else self._trained_with(activation)
        for method in methods:
            row = rows[method.name]
            if row is None:
                assert trained is not None
                row = self._row(method, trained)
                self.cache.write(method.name, self.latencies, row)
            yield row
        (self.cache.folder / _slug(activation.name) / "state.pt").unlink(missing_ok=True)

    def _row(self, method: Method, trained: Trained) -> Results:
        start = time.monotonic()
        return {
            "title": method.title,
            "source": method.source,
            "notes": method.notes,
            "method": method.name,
            "activation": method.activation.name,
            "seed": self.recipe.seed,
            "trained_accuracy": trained.accuracy,
            "by_latency": list(self._by_latency(method, trained.network)),
            "training_seconds": round(trained.seconds, 1),
            "seconds": round(time.monotonic() - start, 1),
        }

    def _trained_with(self, activation: Activation) -> Trained:
        """Return a copy of the network in full precision, trained with an activation in the place of its ReLUs."""
        start = time.monotonic()
        network = placed(copy.deepcopy(self.inputs.network), self.sample[:2], activation)
        trains = over_time(started(network, activation, self.sample), activation)
        changes = {**self.recipe.quantized.model_dump(), **activation.training}
        training, teacher = Training.model_validate(changes), self.inputs.teacher()
        modules = [network.get_submodule(path) for path in activations(network)]
        self._train(trains, activation.name, training, teacher=teacher, activation=activation, modules=modules)
        if activation.finish is not None:
            network = trains = activation.finish(network, [self.sample])
        seconds = time.monotonic() - start
        return Trained(network, accuracy(trains, self.test, self.inputs.normalize, progress=self.progress), seconds)

    def _train(
        self,
        network: nn.Module,
        label: str,
        training: Training,
        *,
        teacher: nn.Module | None,
        activation: Activation | None = None,
        modules: Sequence[nn.Module] = (),
    ) -> None:
        """Train a network, or continue a training that was stopped; ``modules``: the modules of its activation."""
        folder = self.cache.folder / _slug(label)
        folder.mkdir(parents=True, exist_ok=True)
        key = json.dumps({**self.cache.cache_key, "training": training.model_dump()})
        saved = RunState(folder)
        penalty = None if activation is None else activation.penalty
        setting = Setting(
            label=label,
            precision=self.recipe.precision,
            augmentation=self.inputs.augmentation,
            teacher=teacher,
            seed=self.recipe.seed,
            workers=self.recipe.workers,
            progress=self.progress,
            state=saved,
            interruption=self.interruption,
            extra_state=lambda: {"cache_key": key},
            penalty=None if penalty is None else lambda: penalty(list(modules)),
            resume_hint="the same command continues from",
        )

        def adapt(_: object) -> None:
            if activation is not None and activation.adapt is not None:
                activation.adapt(network, list(modules), self.sample[:ADAPTED], self.labels[:ADAPTED])

        state = saved.read()
        if state is not None and not (self.cache.is_cacheable and state.get("cache_key") == key):
            state = None
        if state is None:
            adapt(None)
        normalize = self.inputs.normalize
        fit(network, self.images, normalize, training, setting=setting, after_epoch=adapt, resume=state)

    def _by_latency(self, method: Method, network: fx.GraphModule) -> Iterator[Results]:
        """Yield accuracy, spikes and energy at each latency at which the method has a read-out."""
        steps_after = [step - method.before for step in self.latencies if step > method.before]
        runs = [[step] for step in steps_after] if method.by_latency else [steps_after]
        for run in filter(None, runs):
            snn = method.spiking(network, [self.sample], max(run))
            longest = max(*run, snn.schedule.steps)
            measured = measure(snn, self.test, self.inputs.normalize, longest, progress=self.progress)
            energy = self._energy(snn, longest, method.before)
            for step in run:
                yield {
                    "latency": step + method.before,
                    "accuracy": measured.accuracy[step - 1],
                    "spikes": measured.spikes_per_image[step - 1],
                    "energy_pj": energy[step - 1],
                }

    def _energy(self, snn: SpikingNetwork, steps: int, before: int) -> list[float]:
        """Return the energy per image up to each step, in pJ, on average over some test images.

        For a run before the read-out, its energy without the analog input is added.
        """
        normalize = self.inputs.normalize
        measured = cost(snn, self.few, normalize, steps, progress=self.progress)
        earlier = 0.0
        if isinstance(snn.start, FirstRun):
            first = cost(snn.start.first, self.few, normalize, before, progress=self.progress)
            earlier = first.spiking_pj[-1] - first.analog_pj
        return [earlier + each for each in measured.spiking_pj]


def left_out(method: Method, why: QffsError) -> Results:
    """Return the entry in the results of a method that was not measured: its name, its title and why."""
    return {"method": method.name, "title": method.title, "why": str(why)}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
