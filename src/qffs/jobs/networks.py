"""Jobs on one network: its plan, its quantisation, its conversion, its simulation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from qffs import sources
from qffs.checkpoint import check_folder, load_kind, save
from qffs.convert import plan as plan_of
from qffs.convert import to_spiking
from qffs.data import load as load_data
from qffs.errors import CheckpointError, InvalidArgument
from qffs.graph.plan import Plan
from qffs.jobs.start import (
    about,
    calibrated,
    device_of,
    inputs,
    materials,
    prepare,
    quantised,
)
from qffs.measure import accuracy, check_fit, measure
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.progress import wait
from qffs.recipe import Recipe
from qffs.report.results import Results, by_layer, by_step
from qffs.stream import check_margin
from qffs.train import Setting, fit


def plan(
    model: str, shapes: Sequence[sources.Shape] = (), weights: str | None = None, progress: bool = True
) -> tuple[Plan, str]:
    """The plan of a network by its name, and the shapes of its inputs in words; nothing is written.

    shapes: of the inputs, without the batch; by default those that the network's source knows.
    """
    with wait(f"reading {model}", show=progress):
        source = sources.find(model, weights)
        example = sources.example(model, source, shapes)
        return plan_of(source.network, example), sources.show(tuple(x.shape[1:]) for x in example)


def quantise(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """Quantise, calibrate and fine-tune a network and write its checkpoint to ``folder``; return what was done.

    Its full-precision epochs do not matter: none are run here.
    """
    check_folder(folder)
    device = device_of(recipe.device)
    network, data, normalise, augmentation = materials(recipe, device, usual=True, progress=progress)
    qann = calibrated(recipe, quantised(recipe, data, network, normalise), data.train, normalise)
    said = about(recipe, data, device)
    setting = Setting("quantised", recipe.precision, augmentation, network.eval(), seed=recipe.seed, progress=progress)

    def after_epoch(_: object) -> None:
        save(qann, folder, said)  # so that a later divergence leaves the last good checkpoint

    history = fit(qann, data.train, normalise, recipe.quantised, setting, after_epoch=after_epoch)
    save(qann, folder, said)
    on_training = accuracy(qann, data.train, normalise, progress=progress)
    return {**said, "loss": [epoch.loss for epoch in history], "training_accuracy": on_training}


def convert(
    checkpoint: Path, folder: Path, charge_steps: int | Sequence[float] | None, device: str = "auto", seed: int = 0
) -> Results:
    """Convert the quantised network of a checkpoint to a spiking one and write it to ``folder``."""
    where = prepare(device, seed)
    if folder.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"the spiking network would replace the quantised one in {folder}: name another folder")
    if checkpoint.resolve() in folder.resolve().parents:
        raise InvalidArgument(
            f"{folder} lies inside the checkpoint {checkpoint}, which is to stay: name another folder"
        )
    check_folder(folder)
    loaded = load_kind("qann", checkpoint, "convert takes a quantised one")
    snn = to_spiking(loaded.network.to(where), charge_steps)
    save(snn, folder, loaded.about)
    layers = {path: neuron.highest for path, neuron in snn.neurons()}
    return {**loaded.about, "charge_schedule": list(snn.schedule.weights), "highest_level": layers}


def simulate(
    checkpoint: Path,
    data: str,
    steps: int | None,
    qann: Path | None,
    device: str,
    progress: bool,
    seed: int = 0,
    size: int | None = None,
    stop_when: Sequence[float] = (),
) -> Results:
    """Measure the spiking network of a checkpoint on all test images of ``data``, beside its QANN where given.

    steps: by default 8, and at least twice the charge steps; stop_when: margins to stop images at early.
    """
    for margin in stop_when:
        check_margin(margin)
    where = prepare(device, seed)
    loaded = load_kind("snn", checkpoint, "run qffs convert on it first")
    snn = loaded.network.to(where)
    assert isinstance(snn, SpikingNetwork)
    steps = max(8, 2 * snn.schedule.steps) if steps is None else steps
    snn.schedule.over(steps)
    beside = None if qann is None else load_kind("qann", qann, "--qann takes a quantised one").network.to(where)
    dataset = load_data(data, size, progress=progress)
    if beside is not None and _step_sizes(snn) != _step_sizes(beside):
        raise CheckpointError(f"{checkpoint} was not converted from {qann}: their step sizes differ")
    normalise = inputs(dataset, where)
    for network, source in ((snn, checkpoint), (beside, qann)):
        if network is not None:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            check_fit(network, dataset.test, normalise, len(dataset.classes), f"the network in {source}")
    measured = measure(snn, dataset.test, normalise, steps, qann=beside, stop_when=stop_when, progress=progress)
    results: Results = {"model": loaded.about.get("model", str(checkpoint)), "data": dataset.name}
    results |= {"images": measured.images, "snn": by_step(measured), "layers": by_layer(measured)}
    if measured.stopping:
        results["stopping"] = [dataclasses.asdict(each) for each in measured.stopping]
    if measured.qann_accuracy is not None:
        results["qann"] = {"accuracy": measured.qann_accuracy}
    return results


def _step_sizes(network: nn.Module) -> list[tuple[int, list[float]]]:
    """The highest level and the step sizes of every quantiser, or the thresholds of its neurons."""
    found: list[tuple[int, Tensor]] = [(m.highest, m.step_size) for m in network.modules() if isinstance(m, Quantizer)]
    found += [(m.highest, m.threshold) for m in network.modules() if isinstance(m, Neuron)]
    return sorted((highest, values.flatten().tolist()) for highest, values in found)
