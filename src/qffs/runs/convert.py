"""Jobs on one network: its plan, its quantization, its conversion, its simulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qffs.models import find
from qffs.models.checkpoint import check_folder, load_kind, save
from qffs.convert import plan as plan_of
from qffs.convert import to_spiking
from qffs.errors import InvalidArgument
from qffs.graph.plan import Plan
from qffs.runs.inputs import about, calibrated, device_of, materials, prepare, quantized
from qffs.measurement.accuracy import accuracy
from qffs.progress import wait
from qffs.recipes.recipe import Recipe
from qffs.files import Results
from qffs.train.loop import Setting, fit


def plan(
    model: str, shapes: Sequence[find.Shape] = (), weights: str | None = None, progress: bool = True
) -> tuple[Plan, str]:
    """The plan of a network by its name, and the shapes of its inputs in words; nothing is written.

    shapes: of the inputs, without the batch; by default those that the network's source knows.
    """
    with wait(f"reading {model}", show=progress):
        source = find.find(model, weights)
        example = find.example(model, source, shapes)
        return plan_of(source.network, example), find.show(tuple(x.shape[1:]) for x in example)


def quantize(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """Quantize, calibrate and fine-tune a network and write its checkpoint to ``folder``; return what was done.

    Its full-precision epochs do not matter: none are run here.
    """
    check_folder(folder)
    device = device_of(recipe.device)
    network, data, normalize, augmentation = materials(recipe, device, usual=True, progress=progress)
    qann = calibrated(recipe, quantized(recipe, data, network, normalize), data.train, normalize)
    said = about(recipe, data, device)
    setting = Setting("quantized", recipe.precision, augmentation, network.eval(), seed=recipe.seed, progress=progress)

    def after_epoch(_: object) -> None:
        save(qann, folder, said)  # so that a later divergence leaves the last good checkpoint

    history = fit(qann, data.train, normalize, recipe.quantized, setting, after_epoch=after_epoch)
    save(qann, folder, said)
    on_training = accuracy(qann, data.train, normalize, progress=progress)
    return {**said, "loss": [epoch.loss for epoch in history], "training_accuracy": on_training}


def convert(
    checkpoint: Path, folder: Path, charge_steps: int | Sequence[float] | None, device: str = "auto", seed: int = 0
) -> Results:
    """Convert the quantized network of a checkpoint to a spiking one and write it to ``folder``."""
    where = prepare(device, seed)
    if folder.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"the spiking network would replace the quantized one in {folder}: name another folder")
    if checkpoint.resolve() in folder.resolve().parents:
        raise InvalidArgument(
            f"{folder} lies inside the checkpoint {checkpoint}, which is to stay: name another folder"
        )
    check_folder(folder)
    loaded = load_kind("qann", checkpoint, "convert takes a quantized one")
    snn = to_spiking(loaded.network.to(where), charge_steps)
    save(snn, folder, loaded.about)
    layers = {path: neuron.highest for path, neuron in snn.neurons()}
    return {**loaded.about, "charge_schedule": list(snn.schedule.weights), "highest_level": layers}
