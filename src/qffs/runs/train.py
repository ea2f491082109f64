"""A recipe from beginning to end: train or load, quantize, fine-tune, convert, verify, measure."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx

from qffs.train import distributed
from qffs.models.checkpoint import check_folder, load, save
from qffs.verification import Comparison, verify
from qffs.convert import to_spiking
from qffs.errors import InvalidArgument
from qffs.runs.tensorboard import Log
from qffs.runs.provenance import provenance
from qffs.runs.inputs import Materials, about, calibrated, fingerprint, parts, quantized
from qffs.method import Schedule
from qffs.measurement.accuracy import accuracy, measure
from qffs.measurement.batches import fitting
from qffs.spiking.network import SpikingNetwork
from qffs.recipes.recipe import Recipe, Training
from qffs.recipes import read, to_yaml
from qffs.report.plots import draw_accuracy
from qffs.files import Results, to_json, write, write_text
from qffs.report.results import by_layer, by_step
from qffs.train.loop import Epoch, Setting, fit
from qffs.train.state import Interruption, RunState
import json
from pathlib import Path
from qffs.train import distributed
from qffs.errors import CheckpointError, InvalidArgument
from qffs.runs.tensorboard import Log
from qffs.runs.inputs import device_of, materials, usual_augmentation
from qffs.recipes.recipe import Recipe, differences
from qffs.recipes import read
from qffs.files import Results
from qffs.train.state import Interruption, RunState

VERIFIED_IMAGES = 32
FUSED_FROM_PIXELS = 10**8
"""Training on more pixels than this takes longer than compiling the kernels."""

Stage = Literal["full precision", "quantized"]
CHECKPOINTS: dict[Stage, str] = {"full precision": "float", "quantized": "qann"}


def check_outputs(folder: Path) -> None:
    """Raise where a run could not write into a folder, or would write over what is not of a run."""
    for name in (*CHECKPOINTS.values(), "snn"):
        check_folder(folder / name)
    for name in ("results.json", "run.json", "accuracy.png"):
        if (folder / name).is_dir():
            raise InvalidArgument(f"{folder / name} is a folder, where a file is to be written: name another output")


class Run:
    """One run of a recipe: what its stages share."""

    state: RunState | None = None
    log: Log | None = None

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        materials: Materials,
        device: torch.device,
        interruption: Interruption,
        progress: bool,
    ) -> None:
        self.recipe, self.folder, self.data, self.device = recipe, folder, materials.data, device
        self.network, self.normalize = materials.network, materials.normalize
        self.augmentation = materials.augmentation
        self.interruption, self.progress = interruption, progress
        self.about = about(recipe, self.data, device)
        self.images, self.held_out, self.test = parts(recipe, self.data)
        self.reading: dict[str, Any] = {"workers": recipe.workers, "progress": progress}
        self.histories: dict[str, list[Results]] = {}
        self.seconds, self.began_s = 0.0, time.monotonic()

    def whole(self, resume: bool = False) -> Results:
        """All stages, then the measurement on the test images; the state is gone when the results are there."""
        saved = self.state.read() if resume and self.state is not None else None
        if saved is not None:
            if saved["data"] != fingerprint(self.data):
                raise InvalidArgument(f"{self.folder} holds a run on other images or labels than {self.recipe.data}")
            self.histories, self.seconds = saved["histories"], saved["seconds"]
        self._write_recipe()
        self._stage("full precision", self.network, self.recipe.full_precision, saved)
        qann = quantized(self.recipe, self.data, self.network, self.normalize)
        if saved is None or saved["stage"] != "quantized":
            calibrated(self.recipe, qann, self.images, self.normalize)
        self._stage("quantized", qann, self.recipe.quantized, saved, teacher=self.network)
        schedule, choices = self._chosen(qann)
        snn = to_spiking(qann, schedule.weights)
        self._save(snn, "snn")
        results = self._measured(qann, snn) | {"charge_choices": choices}
        if not distributed.rank():
            write(self.folder / "accuracy.png", lambda path: draw_accuracy(results, path))
            run = provenance(self.device, self.elapsed_s)
            write_text(self.folder / "run.json", to_json(run))
            write_text(self.folder / "results.json", to_json(results))
        if self.state is not None:
            self.state.remove()
        return results

    def _write_recipe(self) -> None:
        """Say which recipe the folder's run is of; a file that says the same already, in its user's words, stays."""
        path = self.folder / "recipe.yaml"
        if not distributed.rank() and not (path.exists() and read(str(path)) == self.recipe):
            write_text(path, to_yaml(self.recipe))

    def _stage(
        self,
        stage: Stage,
        network: fx.GraphModule,
        training: Training,
        saved: dict[str, Any] | None,
        teacher: fx.GraphModule | None = None,
    ) -> None:
        """Train a network and save its checkpoint, after every epoch; or take what a run before has done."""
        if stage in self.histories:  # it ended before the state was saved that is gone on from
            trained = load(self.folder / CHECKPOINTS[stage]).network.state_dict()
            network.load_state_dict(trained, strict=False)
            return

        def after_epoch(epoch: Epoch) -> float | None:
            held_out = None
            if self.held_out is not None:
                held_out = accuracy(network, self.held_out, self.normalize, workers=self.recipe.workers, progress=False)
            self._save(network, CHECKPOINTS[stage])
            if self.log is not None:
                self.log.epoch(stage, epoch, held_out, network)
            return held_out

        history = fit(
            network,
            self.images,
            self.normalize,
            training,
            self._setting(stage, training, teacher),
            after_epoch=after_epoch,
            resume=saved if saved is not None and saved["stage"] == stage else None,
        )
        self._save(network, CHECKPOINTS[stage])
        self.histories[stage] = [asdict(epoch) for epoch in history]

    def _setting(self, stage: Stage, training: Training, teacher: fx.GraphModule | None) -> Setting:
        pixels = training.epochs * len(self.images) * math.prod(self.images.shape[1:])
        pays = stage == "quantized" and pixels >= FUSED_FROM_PIXELS
        return Setting(
            stage,
            self.recipe.precision,
            self.augmentation,
            None if teacher is None else teacher.eval(),
            pays if self.recipe.fused == "auto" else self.recipe.fused,
            self.recipe.seed,
            self.recipe.workers,
            self.progress,
            self.state,
            self.interruption,
            lambda: {"histories": self.histories, "seconds": self.elapsed_s, "data": fingerprint(self.data)},
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken, those before it was stopped too."""
        return self.seconds + time.monotonic() - self.began_s

    def _save(self, network: fx.GraphModule | SpikingNetwork, name: str) -> None:
        if not distributed.rank():
            save(network, self.folder / name, self.about)

    def _chosen(self, qann: fx.GraphModule) -> tuple[Schedule, list[Results]]:
        """The charge schedule: the best of the candidates on held-out images, or the one asked for."""
        if not self.recipe.candidates or self.held_out is None:
            return self.recipe.schedule, []
        steps = self.recipe.choose_at or self.recipe.horizon
        choices: list[Results] = []
        for candidate in self.recipe.candidates:
            snn = to_spiking(qann, candidate)
            measured = measure(snn, self.held_out, self.normalize, steps, **self.reading)
            choices.append({"charge_steps": candidate, "steps": steps, "held_out": measured.accuracy[-1]})
        best = max(choices, key=lambda choice: float(choice["held_out"]))  # the first of equals
        return Schedule.of(best["charge_steps"]), choices

    def _measured(self, qann: fx.GraphModule, snn: SpikingNetwork) -> Results:
        """What the three networks do on the test images, which nothing has read before."""
        count = min(len(self.images), fitting(self.images, VERIFIED_IMAGES, self.recipe.horizon))
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.recipe.seed))
        some = self.images.read(order[:count])
        verified = _verify_exactly(qann, snn.schedule, self.normalize(some))
        of_float = accuracy(self.network, self.test, self.normalize, **self.reading)
        measured = measure(snn, self.test, self.normalize, self.recipe.horizon, qann=qann, **self.reading)
        return {
            **self.about,
            "images": measured.images,
            "full_precision": {"accuracy": of_float, "epochs": self.histories["full precision"]},
            "qann": {"accuracy": measured.qann_accuracy, "epochs": self.histories["quantized"]},
            "charge_schedule": list(snn.schedule.weights),
            "snn": by_step(measured),
            "layers": by_layer(measured.activity),
            "verified": {
                "dtype": "float64",
                "images": verified.images,
                "units": sum(units for _, units in verified.layers),
                "settled": verified.settled,
                "deviation": verified.deviation,
            },
        }


def _verify_exactly(qann: fx.GraphModule, schedule: Schedule, x: Tensor) -> Comparison:
    """`verify` in float64, until the network has settled."""
    exact = copy.deepcopy(qann).double()
    return verify(exact, to_spiking(exact, schedule.weights), x.double())


def demo(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """`train`, in a folder whose earlier run is replaced, with shifted (and, photographs, mirrored) images."""
    check_outputs(folder)
    device = device_of(recipe.device)
    given = materials(recipe, device, usual=True, progress=progress)
    if not recipe.augmentation:
        recipe = recipe.model_copy(update={"augmentation": usual_augmentation(given.data)})
    with Interruption().watching() as interruption:
        return Run(recipe, folder, given, device, interruption, progress).whole()


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    save_every_s: float = 60.0,
    tensorboard: bool = False,
    progress: bool = True,
) -> Results:
    """The whole way, from a recipe: train or load, quantize, fine-tune, convert, verify, and measure on test images.

    Writes to ``folder``: recipe.yaml, results.json, accuracy.png and the checkpoints ``float``, ``qann`` and ``snn``,
    and while it trains state.pt, after every epoch and ``save_every_s`` seconds, and with ``tensorboard`` curves;
    from state.pt ``resume`` goes on, with the same results as if the run had never stopped, also where data and weights
    have moved to another folder or other ``workers`` read them. The test images are read once, at the end. The same
    recipe on the same machine writes the same results.json, bit for bit. All of several processes that ``torchrun``
    started return the results; the first of them writes.

    Raises `InvalidArgument` where the folder holds a run and ``resume`` is not asked for, or holds that of another
    recipe; `Stopped` after SIGTERM or SIGINT, the state saved.
    """
    with (
        Interruption("; continue with --resume").watching() as interruption,
        distributed.processes(device_of(recipe.device)) as device,
    ):
        check_outputs(folder)
        finished = _continued(recipe, folder, resume)
        if finished is not None:
            return finished
        log = Log(folder, tensorboard)
        run = Run(recipe, folder, materials(recipe, device, progress=progress), device, interruption, progress)
        run.state, run.log = RunState(folder, save_every_s), log
        return run.whole(resume)


def _continued(recipe: Recipe, folder: Path, resume: bool) -> Results | None:
    """The results of a run that has ended, where that is to go on; raises where a run would be lost."""
    ended, begun = folder / "results.json", RunState(folder).path
    found = ended.exists() or begun.exists()
    if found and not resume:
        state = "has ended" if ended.exists() else "can go on with --resume"
        raise InvalidArgument(f"{folder} holds a run that {state}: name another --output for a new one")
    if (folder / "recipe.yaml").exists():
        other = differences(placeless(recipe), placeless(read(str(folder / "recipe.yaml"))))
        if other:
            raise InvalidArgument(f"{folder} holds the run of another recipe: it differs in {', '.join(other)}")
    for name in ("run.json", "accuracy.png"):
        if not found and (folder / name).exists():
            raise InvalidArgument(f"{folder} holds no run, but a file {name}, which one would replace: name another")
    return _read(ended) if ended.exists() else None


def _read(path: Path) -> Results:
    """The results that a run wrote."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "snn" not in results:
        raise CheckpointError(f"{path} holds something else than the results of a run")
    return results


def placeless(recipe: Recipe) -> Recipe:
    """The recipe without what may change before a run goes on: where its files lie, and how many processes read."""
    kind, colon, path = recipe.data.rpartition(":")
    weights = recipe.weights and Path(recipe.weights).name
    return recipe.model_copy(update={"data": kind + colon + Path(path).name, "weights": weights, "workers": 0})
