"""The job that compares methods: each on the same network, data and budget of training."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from qffs.data import Images
from qffs.errors import Diverged, InvalidArgument, NotConvertible, QffsError
from qffs.files import Results, to_json, write, write_text
from qffs.graph.replace import activations
from qffs.measurement.accuracy import accuracy, measure
from qffs.measurement.batches import fitting
from qffs.measurement.cost import cost
from qffs.method import MAX_STEPS
from qffs.recipes.recipe import Recipe, Training
from qffs.report.plots import draw
from qffs.runs.inputs import Materials, about, device_of, fingerprint, materials, parts
from qffs.runs.provenance import commit, provenance
from qffs.spiking.network import SpikingNetwork
from qffs.studies.compare_findings import findings, title
from qffs.studies.methods import METHODS, Activation, Method, over_time, placed, started
from qffs.studies.methods.initial_potential import Begun
from qffs.studies.methods.quantized import BITS, HIGHEST
from qffs.train.loop import Setting, fit
from qffs.train.state import Interruption, RunState

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
CALIBRATED, COSTED, ADAPTED = 256, 32, 64
"""How many training images find thresholds, test images are counted for energy, training images adapt an activation."""
PARTS = "parts"
"""The folder, beside the results, of what a comparison that was stopped goes on with."""


def compare(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str] = (),
    steps: Sequence[int] = STEPS,
    seeds: int = 1,
    progress: bool = True,
) -> Results:
    """Compare methods of `qffs.studies.methods.METHODS` (all by default) on the network and data of a recipe.

    The network is trained in full precision once, as the recipe says; then each method's own activations are trained
    for the recipe's quantized epochs, once for all methods that share them, from there. steps: the latencies T that are
    measured; those before a first read-out count. seeds: how many times all of it is done, from the recipe's seed on.
    Writes ``compare.json``, ``compare.png`` and ``compare.svg`` to the folder. A comparison that was stopped goes on
    with the same arguments; a method that was measured there is not measured again.

    Raises `InvalidArgument` where there is no such method, a latency or number of seeds is no whole number of at least
    1, the recipe asks for other bits or outputs than methods are compared with, or what a method needs is not
    installed; `NotConvertible` where a method cannot train the network. Of all methods, those are left out; and of any,
    those whose training diverges. No image is held out, for nothing is chosen.
    """
    chosen, steps = _methods(methods), _latencies(steps)
    _check(recipe, folder, seeds)
    recipe = recipe.model_copy(update={"held_out": 0.0, "candidates": [], "choose_at": None})
    device, began = device_of(recipe.device), time.monotonic()
    interruption = Interruption("; the same command goes on from there")
    results: Results = {}
    left_out: list[Results] = []
    runs: list[list[Results]] = []
    taken: list[Results] = []
    with interruption.watching():
        for seed in range(recipe.seed, recipe.seed + seeds):
            comparison = _Comparison(recipe, seed, folder, steps, interruption, progress)
            if not results:
                left_out = comparison.unusable(chosen, named=bool(methods))
                results = comparison.about | {"full_precision": {"by_seed": []}}
            results["full_precision"]["by_seed"].append(comparison.trained())
            rows: list[Results] = []
            for activation, group in _by_activation(chosen):
                able = [m for m in group if m.name not in {each["method"] for each in left_out}]
                try:
                    rows += comparison.rows(activation, able)
                except Diverged as error:
                    left_out += [_left_out(method, error) for method in able]
            runs.append(rows)
            taken += comparison.taken
    results["seeds"] = list(range(recipe.seed, recipe.seed + seeds))
    results["full_precision"]["accuracy"] = statistics.fmean(results["full_precision"]["by_seed"])
    results["left_out"] = left_out
    out = {each["method"] for each in left_out}
    named = {name: [row for rows in runs for row in rows if row["method"] == name] for name in METHODS}
    results["methods"] = [_together(rows) for name, rows in named.items() if rows and name not in out]
    results["run"] = provenance(device, time.monotonic() - began + _seconds(taken))
    found = findings(results)
    write_text(folder / "compare.json", to_json(results))
    for suffix in ("png", "svg"):
        write(folder / f"compare.{suffix}", lambda path: draw(found, title(results), path))
    return results | dataclasses.asdict(found)


def _check(recipe: Recipe, folder: Path, seeds: int) -> None:
    """Raise where a recipe asks for what methods decide, or a file stands where results are to be written."""
    asked = {"bits": recipe.bits != BITS, "output": recipe.output != "analog", "per_channel": recipe.per_channel,
             "charge_steps": recipe.charge_steps is not None}  # fmt: skip
    if others := [name for name, other in asked.items() if other]:
        raise InvalidArgument(
            f"methods are compared with {BITS} bits where they quantize, one step size a layer, an analog output and "
            f"{HIGHEST} charge steps: leave out {', '.join(others)}"
        )
    if not isinstance(seeds, int) or seeds < 1:
        raise InvalidArgument(f"the number of seeds must be a whole number of at least 1, not {seeds!r}")
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"{folder} is a file, where a folder is to be written: name another output")


def _methods(names: Sequence[str]) -> list[Method]:
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InvalidArgument(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names or METHODS)]


def _latencies(steps: Sequence[int]) -> list[int]:
    if not steps or not all(isinstance(step, int) and 1 <= step <= MAX_STEPS for step in steps):
        raise InvalidArgument(
            f"latencies must be whole numbers of at least 1, at most {MAX_STEPS:,}, not {list(steps)}"
        )
    return sorted(set(steps))


def _by_activation(methods: Sequence[Method]) -> Iterator[tuple[Activation, list[Method]]]:
    for activation in {method.activation.name: method.activation for method in methods}.values():
        yield activation, [method for method in methods if method.activation.name == activation.name]


def _left_out(method: Method, why: QffsError) -> Results:
    return {"method": method.name, "title": method.title, "why": str(why)}


def _together(rows: Sequence[Results]) -> Results:
    """One method's row of all seeds: means, and standard deviations where there are several."""

    def spread(values: Sequence[float]) -> float | None:
        return statistics.stdev(values) if len(values) > 1 else None

    trained = [row["trained_accuracy"] for row in rows]
    points = []
    for of_seeds in zip(*(row["by_latency"] for row in rows), strict=True):
        means = {key: statistics.fmean(point[key] for point in of_seeds) for key in ("accuracy", "spikes", "energy_pj")}
        own = spread([point["accuracy"] for point in of_seeds])
        points.append({"latency": of_seeds[0]["latency"], **means, "spread": own})
    said = {key: rows[0][key] for key in ("method", "title", "source", "notes", "activation")}
    together = {"trained_accuracy": statistics.fmean(trained), "trained_spread": spread(trained)}
    seconds = {key: sum(row[key] for row in rows) for key in ("training_seconds", "seconds")}
    return {**said, **together, **seconds, "by_latency": points, "by_seed": list(rows) if len(rows) > 1 else []}


def _seconds(taken: Sequence[Results]) -> float:
    """What took so long before: measuring, and each training once."""
    trainings = {(row["seed"], row["activation"]): row["training_seconds"] for row in taken}
    return float(sum(trainings.values()) + sum(row["seconds"] for row in taken))


class _Comparison:
    """What all methods share of one seed, and what of it was done before."""

    def __init__(
        self, base: Recipe, seed: int, folder: Path, steps: Sequence[int], interruption: Interruption, progress: bool
    ) -> None:
        recipe = base.model_copy(update={"seed": seed})
        self.recipe, self.steps, self.interruption, self.progress = recipe, steps, interruption, progress
        device = device_of(recipe.device)
        self.ready: Materials = materials(recipe, device, progress=progress)
        self.images, _, self.test = parts(base, self.ready.data)  # the same test images for all seeds
        self.folder = folder / PARTS / f"seed-{seed}"
        self.about = {**about(base, self.ready.data, device), "images": len(self.test), "latencies": list(steps)}
        self.asked = {
            "recipe": base.model_dump(mode="json"), "data": fingerprint(self.ready.data), "commit": commit(),
            "versions": self.about["versions"], "network": _fingerprint(self.ready.network),
        }  # fmt: skip
        self.known = not str(self.asked["commit"]).endswith("-dirty")  # else what is there may be of other code
        self.taken: list[Results] = []
        generator = torch.Generator().manual_seed(seed)
        count = min(CALIBRATED, fitting(self.images, CALIBRATED))
        chosen = torch.randperm(len(self.images), generator=generator)[:count]
        self.sample: Tensor = self.ready.normalize(self.images.read(chosen))
        self.labels = self.images.labels[chosen].to(device)
        order = torch.randperm(len(self.test), generator=torch.Generator().manual_seed(base.seed))
        self.few: Images = self.test.select(order[:COSTED].sort().values)

    def unusable(self, methods: Sequence[Method], named: bool) -> list[Results]:
        """The methods that cannot train the network here, and why; raises where they were named."""
        found = []
        for method in methods:
            try:
                method.activation.installed()
                if method.activation.steps:
                    placed(self.ready.network, self.sample[:2], method.activation)
            except (InvalidArgument, NotConvertible) as error:
                if named:
                    raise
                found.append(_left_out(method, error))
        return found

    def trained(self) -> float:
        """Train the network in full precision, and return its accuracy on test images."""
        self._train(self.ready.network, "full precision", self.recipe.full_precision)
        return accuracy(self.ready.network, self.test, self.ready.normalize, progress=self.progress)

    def rows(self, activation: Activation, methods: Sequence[Method]) -> Iterator[Results]:
        """What each method that trains with an activation gives."""
        known = {method.name: self._known(method) for method in methods}
        if not all(known.values()):
            began = time.monotonic()
            network = placed(copy.deepcopy(self.ready.network), self.sample[:2], activation)
            trained = over_time(started(network, activation, self.sample), activation)
            training = Training.model_validate({**self.recipe.quantized.model_dump(), **activation.training})
            self._train(trained, activation.name, training, activation, network)
            if activation.finish is not None:
                network = trained = activation.finish(network, [self.sample])
            seconds = time.monotonic() - began
            own = accuracy(trained, self.test, self.ready.normalize, progress=self.progress)
        for method in methods:
            row = known[method.name]
            if row is None:
                began = time.monotonic()
                row = {
                    **{key: getattr(method, key) for key in ("title", "source", "notes")},
                    "method": method.name, "activation": activation.name, "seed": self.recipe.seed,
                    "trained_accuracy": own, "by_latency": list(self._by_latency(method, network)),
                    "training_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1),
                }  # fmt: skip
                write_text(self._part(method), to_json({"asked": self._asked(method), "row": row}))
            yield row
        (self.folder / _slug(activation.name) / "state.pt").unlink(missing_ok=True)

    def _train(
        self,
        trained: nn.Module,
        label: str,
        training: Training,
        activation: Activation | None = None,
        network: fx.GraphModule | None = None,
    ) -> None:
        """Train a network for some epochs, or go on where that was stopped."""
        penalty = adapt = None
        if activation is not None and network is not None:
            modules = [network.get_submodule(path) for path in activations(network)]
            if (added := activation.penalty) is not None:
                penalty = lambda: added(modules)  # noqa: E731
            adapt = activation.adapt
        folder = self.folder / _slug(label)
        folder.mkdir(parents=True, exist_ok=True)
        asked = {**self.asked, "training": training.model_dump()}
        setting = Setting(
            label, self.recipe.precision, self.ready.augmentation, seed=self.recipe.seed,
            teacher=None if activation is None else self.ready.network.eval(),
            workers=self.recipe.workers, progress=self.progress, penalty=penalty, state=RunState(folder),
            interruption=self.interruption, beside=lambda: {"asked": json.dumps(asked)},
            goes_on="the same command goes on from",
        )  # fmt: skip

        def adapted(_: object) -> None:
            if adapt is not None:
                adapt(trained, modules, self.sample[:ADAPTED], self.labels[:ADAPTED])

        state = setting.state.read() if setting.state is not None else None
        if state is not None and not (self.known and state.get("asked") == json.dumps(asked)):
            state = None
        if state is None:
            adapted(None)
        fit(trained, self.images, self.ready.normalize, training, setting, after_epoch=adapted, resume=state)

    def _by_latency(self, method: Method, network: fx.GraphModule) -> Iterator[Results]:
        """Accuracy, spikes and energy at each latency that the method has."""
        wanted = [step - method.before for step in self.steps if step > method.before]
        runs = [[step] for step in wanted] if method.by_latency else [wanted]
        for run in filter(None, runs):
            snn = method.spiking(network, [self.sample], max(run))
            longest = max(*run, snn.schedule.steps)
            measured = measure(snn, self.test, self.ready.normalize, longest, progress=self.progress)
            energy = self._energy(snn, longest, method.before)
            for step in run:
                yield {
                    "latency": step + method.before, "accuracy": measured.accuracy[step - 1],
                    "spikes": measured.spikes_per_image[step - 1], "energy_pj": energy[step - 1],
                }  # fmt: skip

    def _energy(self, snn: SpikingNetwork, steps: int, before: int) -> list[float]:
        """Of an image up to each step, on average over some test images; of a run before, all but the analog input."""
        found = cost(snn, self.few, self.ready.normalize, steps, progress=self.progress)
        first = 0.0
        if isinstance(snn, Begun) and snn.first is not None:
            run = cost(snn.first, self.few, self.ready.normalize, before, progress=self.progress)
            first = run.spiking_pj[-1] - run.analog_pj
        return [first + each for each in found.spiking_pj]

    # --- what was done before ---------------------------------------------------------------------------------------

    def _part(self, method: Method) -> Path:
        return self.folder / f"{method.name}.json"

    def _asked(self, method: Method) -> Results:
        return {**self.asked, "method": method.name, "latencies": list(self.steps)}

    def _known(self, method: Method) -> Results | None:
        """The row of a method that was measured before, as it would be now; not where code has changed."""
        try:
            part: Results = json.loads(self._part(method).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not self.known or not isinstance(part, dict) or part.get("asked") != self._asked(method):
            return None
        self.taken.append(part["row"])
        return dict(part["row"])


def _fingerprint(network: fx.GraphModule) -> str:
    """What tells a network from another: its code and all its numbers."""
    found = hashlib.sha256(network.code.encode())
    for name, tensor in network.state_dict().items():
        found.update(name.encode() + str(tensor.dtype).encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
