"""The run of a recipe: train or load, quantize, fine-tune, convert, verify, measure."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from qffs.convert import to_spiking
from qffs.files import Results, to_json, write, write_text
from qffs.measurement.accuracy import accuracy, measure
from qffs.measurement.batches import fitting
from qffs.models.checkpoint import load, save
from qffs.models.weights import load_weights
from qffs.nn.quantizer import FUSED_FROM_PIXELS
from qffs.recipes import read, to_yaml
from qffs.recipes.recipe import Recipe, Training
from qffs.report.plots import draw_accuracy
from qffs.report.results import by_layer, by_step
from qffs.runs.folder import CHECKPOINTS, Stage, check_demo, check_outputs, clear, finished, reserved
from qffs.runs.inputs import (
    RunInputs,
    about,
    calibrate_on,
    device_of,
    run_inputs,
    usual_augmentation,
)
from qffs.runs.provenance import command, provenance
from qffs.spiking.network import SpikingNetwork
from qffs.train import distributed
from qffs.train.loop import Epoch, Setting, fit
from qffs.train.state import Interruption, RunState
from qffs.verification import Comparison, verify

if TYPE_CHECKING:
    from qffs.runs.tensorboard import Curves

VERIFIED_IMAGES = 32


class Run:
    """A run of a recipe, with the values that its stages share.

    state: the file from which a stopped run continues; without it the run cannot be continued. curves: the curves for
    TensorBoard, if they are written.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        inputs: RunInputs,
        *,
        interruption: Interruption,
        state: RunState | None = None,
        curves: Curves | None = None,
        progress: bool = True,
    ) -> None:
        self.recipe, self.folder, self.inputs = recipe, folder, inputs
        self.interruption, self.state, self.curves, self.progress = interruption, state, curves, progress
        self.about = about(recipe, inputs.data, inputs.device)
        self.fingerprints = inputs.fingerprints  # now, because files may change while the run goes on
        self.reading: dict[str, Any] = {"workers": recipe.workers, "progress": progress}
        self.histories: dict[str, list[Results]] = {}
        self.seconds, self.began_s, self.command = 0.0, time.monotonic(), command(sys.argv)

    def results(self, resume: bool = False) -> Results:
        """Run all stages, and return and write the results on the test images; then remove the state."""
        with self.inputs.threads(self.recipe.full_precision, self.recipe.quantized):
            return self._stages(resume)

    def _stages(self, resume: bool) -> Results:
        saved = self.state.read() if resume and self.state is not None else None
        if saved is not None:
            from qffs.runs.same_data import check_same  # imported here because most runs do not continue one
            from qffs.runs.stored import check_state

            check_state(saved, self.folder / "state.pt", self.recipe.full_precision.epochs)
            check_same(saved, self.fingerprints, self.recipe.data, self.folder)
            self.histories, self.seconds = saved["histories"], saved["seconds"]
            self.command = saved.get("command") or self.command  # earlier versions did not save it
        elif not distributed.rank():
            clear(self.folder)
        self._write_recipe()
        self._stage("full precision", self.inputs.network, saved)
        qann = self.inputs.quantized()
        if saved is None or saved["stage"] != "quantized":
            calibrate_on(self.inputs, self.inputs.parts.train, self.recipe, progress=self.progress)
        self._stage("quantized", qann, saved)
        charge, choices = self._best_charge(qann)
        snn = to_spiking(qann, charge)
        self._save(snn, "snn")
        results = self._measured(qann, snn) | {"charge_choices": choices}
        if not distributed.rank():
            write(self.folder / "accuracy.png", lambda path: draw_accuracy(results, path))
            run = provenance(self.inputs.device, self.elapsed_s) | {"command": self.command}
            more = {"resumable": self.state is not None, "fingerprints": self.fingerprints}
            write_text(self.folder / "run.json", to_json(run | more))
            write_text(self.folder / "results.json", to_json(results))
        if self.state is not None:
            self.state.remove()
        return results

    def _write_recipe(self) -> None:
        """Write the recipe into the folder, unless the folder has a file, perhaps a user's, with the same recipe."""
        path = self.folder / "recipe.yaml"
        if not distributed.rank() and not (path.exists() and read(str(path), trust=True) == self.recipe):
            write_text(path, to_yaml(self.recipe))

    def _stage(self, stage: Stage, network: fx.GraphModule, saved: dict[str, Any] | None) -> None:
        """Train a network and save its checkpoint after every epoch, or load it if an earlier run trained it."""
        if stage in self.histories:  # the stage had ended when the state from which this run continues was saved
            trained = load(self.folder / CHECKPOINTS[stage]).network.state_dict()
            load_weights(network, {**network.state_dict(), **trained}, str(self.folder / CHECKPOINTS[stage]))
            return
        held_out_images, normalize = self.inputs.parts.held_out, self.inputs.normalize

        def after_epoch(epoch: Epoch) -> float | None:
            held_out = None
            if held_out_images is not None:
                held_out = accuracy(network, held_out_images, normalize, workers=self.recipe.workers, progress=False)
            self._save(network, CHECKPOINTS[stage])
            if self.curves is not None:
                self.curves.add(stage, epoch, held_out, network)
            return held_out

        training = self.recipe.quantized if stage == "quantized" else self.recipe.full_precision
        history = fit(
            network,
            self.inputs.parts.train,
            normalize,
            training,
            setting=self._setting(stage, training),
            after_epoch=after_epoch,
            resume=saved if saved is not None and saved["stage"] == stage else None,
        )
        self._save(network, CHECKPOINTS[stage])
        self.histories[stage] = [asdict(epoch) for epoch in history]

    def _setting(self, stage: Stage, training: Training) -> Setting:
        images = self.inputs.parts.train
        pixels = training.epochs * len(images) * math.prod(images.shape[1:])
        pays = stage == "quantized" and pixels >= FUSED_FROM_PIXELS
        return Setting(
            label=stage,
            precision=self.recipe.precision,
            augmentation=self.inputs.augmentation,
            teacher=self.inputs.teacher() if stage == "quantized" else None,
            output=self.inputs.output() if stage == "quantized" else None,
            fused=pays if self.recipe.fused == "auto" else self.recipe.fused,
            seed=self.recipe.seed,
            workers=self.recipe.workers,
            progress=self.progress,
            state=self.state,
            interruption=self.interruption,
            extra_state=self._extra_state,
        )

    def _extra_state(self) -> dict[str, Any]:
        """Return the values beside the state of the training that a run needs to continue."""
        return {"histories": self.histories, "seconds": self.elapsed_s, "command": self.command} | self.fingerprints

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken, with those before it was stopped."""
        return self.seconds + time.monotonic() - self.began_s

    def _save(self, network: fx.GraphModule | SpikingNetwork, name: str) -> None:
        if not distributed.rank():
            save(network, self.folder / name, self.about)

    def _best_charge(self, qann: fx.GraphModule) -> tuple[int | Sequence[float], list[Results]]:
        """Return the charge steps, or their weights, and the accuracy of each candidate on held-out images.

        They are the candidate with the best accuracy; without candidates they are those of the recipe.
        """
        held_out = self.inputs.parts.held_out
        if not self.recipe.candidates or held_out is None:
            return self.recipe.schedule.weights, []
        steps = self.recipe.choose_at or self.recipe.horizon
        choices: list[Results] = []
        for candidate in self.recipe.candidates:
            snn = to_spiking(qann, candidate)
            measured = measure(snn, held_out, self.inputs.normalize, steps, **self.reading)
            choices.append({"charge_steps": candidate, "steps": steps, "held_out": measured.accuracy[-1]})
        best = max(choices, key=lambda choice: float(choice["held_out"]))  # the first of equals
        return best["charge_steps"], choices

    def _measured(self, qann: fx.GraphModule, snn: SpikingNetwork) -> Results:
        """Return the results of the three networks on the test images, which are read here for the first time."""
        images, test, normalize = self.inputs.parts.train, self.inputs.parts.test, self.inputs.normalize
        count = min(len(images), fitting(images, VERIFIED_IMAGES, self.recipe.horizon))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.recipe.seed))
        verified = _verify_exactly(qann, snn.schedule.weights, normalize(images.read(order[:count])))
        full_precision = accuracy(self.inputs.network, test, normalize, **self.reading)
        measured = measure(snn, test, normalize, self.recipe.horizon, qann=qann, **self.reading)
        return {
            **self.about,
            "images": measured.images,
            "full_precision": {"accuracy": full_precision, "epochs": self.histories["full precision"]},
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


def _verify_exactly(qann: fx.GraphModule, charge: int | Sequence[float], x: Tensor) -> Comparison:
    """Return the comparison of `verify` in float64, which runs until the network has settled."""
    exact = copy.deepcopy(qann).double()
    return verify(exact, to_spiking(exact, charge), x.double())


def demo(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """Run a recipe as `train` does and return its results; an earlier demo in the folder is replaced.

    Without an augmentation in the recipe, training images are shifted, and color images also mirrored. The files of an
    earlier demo are removed before the first file is written, so that two runs are never mixed.
    """
    check_outputs(folder, recipe)
    with reserved(folder, command(sys.argv)):
        check_demo(folder)
        inputs = run_inputs(recipe, device_of(recipe.device), usual=True, progress=progress)
        if not recipe.augmentation:
            recipe = recipe.model_copy(update={"augmentation": usual_augmentation(inputs.data)})
        with Interruption().watching() as interruption:
            run = Run(recipe, folder, inputs, interruption=interruption, progress=progress)
            return run.results()


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    save_every_s: float = 60.0,
    tensorboard: bool = False,
    progress: bool = True,
) -> Results:
    """Run a recipe: train or load, quantize, fine-tune, convert, verify, and measure on test images.

    Writes to ``folder``: recipe.yaml, results.json, run.json, accuracy.png and the checkpoints ``float``, ``qann`` and
    ``snn``; with ``tensorboard``, curves; and while it trains state.pt, after every epoch and every ``save_every_s``
    seconds. With ``resume`` the run continues from state.pt, with the same results as if it had never stopped, even if
    data and weights have moved to another folder or ``workers`` differs. The test images are read once, at the end. The
    same recipe on the same machine writes the same results.json, bit for bit. If ``torchrun`` started several
    processes, each returns the results, and the first one writes the files.

    Raises `InvalidArgument` if the folder holds a run and ``resume`` is false, if it holds the run of another recipe,
    on other images, or files that no run wrote, or if another process uses it; `Stopped` after SIGTERM or SIGINT, when
    the state is saved. A run that has ended returns its results, with a warning if its images are not there.
    """
    check_outputs(folder, recipe)
    with (
        Interruption("; continue with --resume").watching() as interruption,
        distributed.processes(device_of(recipe.device)) as device,
        nullcontext() if distributed.rank() else reserved(folder, command(sys.argv)),
    ):
        results = finished(recipe, folder, resume)
        if results is not None:
            from qffs.runs.same_data import check_ended

            check_ended(recipe, folder, progress=progress)
            return results
        curves = _curves(folder) if tensorboard else None
        run = Run(
            recipe,
            folder,
            run_inputs(recipe, device, progress=progress),
            interruption=interruption,
            state=RunState(folder, save_every_s),
            curves=curves,
            progress=progress,
        )
        return run.results(resume)


def _curves(folder: Path) -> Curves | None:
    """Return the writer of TensorBoard's curves; None in all processes but the first."""
    from qffs.runs.tensorboard import Curves

    return None if distributed.rank() else Curves(folder)
