"""The quantization of a trained network: calibrate, reconstruct, fine-tune if wanted, and compare it with the network.

No labels are needed, but for fine-tuning. Where there are none, the networks are compared by what they predict.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, fx, nn

from qffs.convert import to_spiking
from qffs.errors import InvalidArgument
from qffs.files import Results
from qffs.measurement.accuracy import measure, predictions
from qffs.models.checkpoint import save
from qffs.recipes.recipe import Recipe
from qffs.report.advice import of_quantization
from qffs.report.results import by_step
from qffs.runs.folder import reserved
from qffs.runs.inputs import RunInputs, about, calibrate_on, device_of, run_inputs
from qffs.runs.outputs import check_checkpoint
from qffs.runs.provenance import command
from qffs.train.loop import Epoch, Setting, fit


def quantize(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """Quantize a network for a recipe, write its checkpoint to ``folder``, and compare it with the network.

    Returns the description of the run; ``labeled`` and the number of test ``images``; ``networks``: one entry for the
    network in full precision and for the quantized one after each stage (calibration, reconstruction, training), with
    its ``name``, its ``accuracy``, and ``agreement``, the share of images for which it predicts the class that the
    network in full precision predicts; ``snn``: both by step, and its spikes per image; ``loss``: of each epoch of
    training; ``advice``: a sentence where the result is no good. Without labels there is no ``accuracy``. The epochs in
    full precision are left out.

    Raises `InvalidArgument` if ``folder`` has an input of the run, holds another kind of network, belongs to a run, or
    is in use by another process.
    """
    check_checkpoint(folder, "qann", recipe.model, recipe.weights, recipe.teacher, recipe.teacher_weights)
    with reserved(folder, command(sys.argv), beside=True):
        return _quantize(recipe, folder, progress)


def _quantize(recipe: Recipe, folder: Path, progress: bool) -> Results:
    inputs = run_inputs(recipe, device_of(recipe.device), usual=True, unlabeled=True, progress=progress)
    images, qann, notes = inputs.parts.train, inputs.qann, about(recipe, inputs.data, inputs.device)
    if recipe.quantized.epochs and not inputs.data.labeled:
        raise InvalidArgument(f"{recipe.data} has no labels to train with: leave quantized.epochs out")
    with inputs.threads(recipe.quantized):
        comparison = _Comparison(inputs, progress)
        calibrate_on(inputs, images, recipe, lambda stage: comparison.add(f"QANN, {stage}", qann), progress)
        history = []
        if recipe.quantized.epochs:
            history = _train(inputs, recipe, lambda: save(qann, folder, notes), progress)
            comparison.add("QANN, trained", qann)
        save(qann, folder, notes)
        results = notes | comparison.results(qann, recipe) | {"loss": [epoch.loss for epoch in history]}
    return results | {"advice": of_quantization(results, classes=len(inputs.data.classes))}


def _train(inputs: RunInputs, recipe: Recipe, store: Callable[[], object], progress: bool) -> list[Epoch]:
    """Train the quantized network, and store it after each epoch: if a later one diverges, the last good one stays."""
    setting = Setting(
        label="quantized",
        precision=recipe.precision,
        augmentation=inputs.augmentation,
        teacher=inputs.teacher(),
        output=inputs.output(),
        seed=recipe.seed,
        progress=progress,
    )

    def after_epoch(_: Epoch) -> None:
        store()

    images, normalize = inputs.parts.train, inputs.normalize
    return fit(inputs.qann, images, normalize, recipe.quantized, setting=setting, after_epoch=after_epoch)


class _Comparison:
    """The networks of a run on its test images, beside the network in full precision."""

    def __init__(self, inputs: RunInputs, progress: bool) -> None:
        self.inputs, self.progress = inputs, progress
        self.images, self.labeled = inputs.parts.test, inputs.data.labeled
        self.reference = self._predictions(inputs.network)
        self.networks: list[Results] = []
        self.add("full precision", inputs.network)

    def add(self, name: str, network: nn.Module) -> None:
        """Measure a network as it is now."""
        predicted = self.reference if network is self.inputs.network else self._predictions(network)
        self.networks.append({"name": name} | self._shares(predicted))

    def results(self, qann: fx.GraphModule, recipe: Recipe) -> Results:
        """Return what was measured, and the same of the spiking network after each step."""
        snn = to_spiking(qann, recipe.schedule.weights)
        measured = measure(
            snn,
            self.images,
            self.inputs.normalize,
            recipe.horizon,
            qann=self.inputs.network,
            progress=self.progress,
        )
        rows = by_step(measured)
        if not self.labeled:
            for row in rows:
                del row["accuracy"]
        return {"labeled": self.labeled, "images": len(self.images), "networks": self.networks, "snn": rows}

    def _predictions(self, network: nn.Module) -> Tensor:
        return predictions(network, self.images, self.inputs.normalize, progress=self.progress)

    def _shares(self, predicted: Tensor) -> Results:
        pairs = {"accuracy": self.images.labels, "agreement": self.reference}
        return {
            name: float((predicted == other).double().mean())
            for name, other in pairs.items()
            if self.labeled or name != "accuracy"
        }
