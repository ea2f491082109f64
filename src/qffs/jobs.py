"""Whole jobs from files to files: what each subcommand of the command line calls."""

from __future__ import annotations

import copy
import dataclasses
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs import sources
from qffs.calibration import calibrate
from qffs.checkpoint import check_folder, load_kind, save
from qffs.convert import Comparison, quantize, to_spiking, verify
from qffs.convert import plan as plan_of
from qffs.data import Dataset
from qffs.data import load as load_data
from qffs.errors import CheckpointError, InvalidArgument
from qffs.graph.plan import Plan
from qffs.graph.trace import trace
from qffs.levels import Schedule
from qffs.measure import accuracy, check_fit, measure
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.progress import wait
from qffs.report.figure import draw
from qffs.report.results import Results, by_layer, by_step, to_json, write
from qffs.task import Task, device_of
from qffs.train import check_seed, fit
from qffs.version import __version__

CALIBRATION_IMAGES = 512
VERIFIED_IMAGES = 32


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


def demo(task: Task, folder: Path) -> Results:
    """The whole way: train or load, quantise, fine-tune, convert, verify, and measure on all test images.

    Writes to ``folder``: results.json, accuracy.png and the checkpoints ``float``, ``qann`` and ``snn``. The test
    images are read once, at the end. The same task on the same machine writes the same results.json, bit for bit.
    """
    task.check()
    for name in ("float", "qann", "snn"):
        check_folder(folder / name)
    for name in ("results.json", "accuracy.png"):
        if (folder / name).is_dir():
            raise InvalidArgument(f"{folder / name} is a folder, where a file is to be written: name another output")
    data = load_data(task.data, task.size, progress=task.progress)
    network, normalise = _start(task, data)
    _quantised(task, data, network, normalise)  # what cannot be quantised as asked is found before training
    _train(task, data, network, normalise, task.float_epochs, folder / "float", "full precision")
    qann = _calibrated(task, data, network, normalise)
    _train(task, data, qann, normalise, task.epochs, folder / "qann", _label(task))
    snn = to_spiking(qann, task.charge_steps)
    save(snn, folder / "snn", _about(task, data))
    verified = _verify_exactly(qann, snn.schedule, normalise(data.train.images[:VERIFIED_IMAGES]))

    of_float = accuracy(network, data.test, normalise, progress=task.progress)
    measured = measure(snn, data.test, normalise, task.horizon, qann=qann, progress=task.progress)
    results: Results = {
        **_about(task, data),
        "images": measured.images,
        "full_precision": {"accuracy": of_float},
        "qann": {"accuracy": measured.qann_accuracy},
        "charge_schedule": list(snn.schedule.weights),
        "snn": by_step(measured),
        "layers": by_layer(measured),
        "verified": {
            "dtype": "float64",
            "images": verified.images,
            "units": sum(units for _, units in verified.layers),
            "settled": verified.settled,
            "deviation": verified.deviation,
        },
    }
    return _finish(results, folder)


def quantise(task: Task, folder: Path) -> Results:
    """Quantise, calibrate and fine-tune a network and write its checkpoint to ``folder``; return what was done.

    The task's ``float_epochs`` do not matter: no epochs in full precision are run here.
    """
    task = dataclasses.replace(task, float_epochs=0)
    task.check()
    check_folder(folder)
    data = load_data(task.data, task.size, progress=task.progress)
    network, normalise = _start(task, data)
    qann = _calibrated(task, data, network, normalise)
    history = _train(task, data, qann, normalise, task.epochs, folder, _label(task))
    on_training = accuracy(qann, data.train, normalise, progress=task.progress)
    return {**_about(task, data), "loss": [epoch.loss for epoch in history], "training_accuracy": on_training}


def convert(
    checkpoint: Path, folder: Path, charge_steps: int | Sequence[float] | None, device: str = "auto", seed: int = 0
) -> Results:
    """Convert the quantised network of a checkpoint to a spiking one and write it to ``folder``."""
    where = _prepare(device, seed)
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
) -> Results:
    """Measure the spiking network of a checkpoint on all test images of ``data``, beside its QANN where given.

    steps: by default 8, and at least twice the charge steps.
    """
    where = _prepare(device, seed)
    loaded = load_kind("snn", checkpoint, "run qffs convert on it first")
    snn = loaded.network.to(where)
    assert isinstance(snn, SpikingNetwork)
    steps = max(8, 2 * snn.schedule.steps) if steps is None else steps
    snn.schedule.over(steps)
    beside = None if qann is None else load_kind("qann", qann, "--qann takes a quantised one").network.to(where)
    dataset = load_data(data, size, progress=progress)
    if beside is not None and _step_sizes(snn) != _step_sizes(beside):
        raise CheckpointError(f"{checkpoint} was not converted from {qann}: their step sizes differ")
    normalise = _inputs(dataset, where)
    for network, source in ((snn, checkpoint), (beside, qann)):
        if network is not None:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            check_fit(network, dataset.test, normalise, len(dataset.classes), f"the network in {source}")
    measured = measure(snn, dataset.test, normalise, steps, qann=beside, progress=progress)
    results: Results = {"model": loaded.about.get("model", str(checkpoint)), "data": dataset.name}
    results |= {"images": measured.images, "snn": by_step(measured), "layers": by_layer(measured)}
    if measured.qann_accuracy is not None:
        results["qann"] = {"accuracy": measured.qann_accuracy}
    return results


def _step_sizes(network: nn.Module) -> list[tuple[int, list[float]]]:
    """The highest level and the step sizes of every quantiser, or the thresholds of its neurons."""
    found: list[tuple[int, Tensor]] = [(m.highest, m.step_size) for m in network.modules() if isinstance(m, Quantizer)]
    found += [(m.highest, m.threshold) for m in network.modules() if isinstance(m, Neuron)]
    return sorted((highest, values.flatten().tolist()) for highest, values in found)


def _prepare(device: str, seed: int) -> torch.device:
    """The device, with the seed set: nothing in these jobs is random, but a network's operator might be."""
    check_seed(seed)
    torch.manual_seed(seed)
    return device_of(device)


def _start(task: Task, data: Dataset) -> tuple[fx.GraphModule, Callable[[Tensor], Tensor]]:
    """The network with its weights on its device, channels last, and what makes its input of images.

    It is traced, so that data that do not fit it are found before training, and what is trained is what is converted:
    some networks have further outputs in training.
    """
    torch.manual_seed(task.seed)
    network = sources.find(task.model, task.weights).network
    device = device_of(task.device)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = _inputs(data, device)
    traced = trace(network, normalise(data.train.images[:2]))
    check_fit(traced, data.train, normalise, len(data.classes), task.model)
    return traced, normalise


def _inputs(data: Dataset, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What makes a network's input of images: on the device, and channels last, which convolutions like best."""

    def normalise(images: Tensor) -> Tensor:
        return data.normalise(images.to(device)).contiguous(memory_format=torch.channels_last)

    return normalise


def _quantised(task: Task, data: Dataset, network: nn.Module, normalise: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    example = normalise(data.train.images[:2])
    return quantize(network, task.bits, task.output, example=example, per_channel=task.per_channel)


def _label(task: Task) -> str:
    return f"{task.bits}-bit quantised" if isinstance(task.bits, int) else "quantised"


def _calibrated(task: Task, data: Dataset, network: nn.Module, normalise: Callable[[Tensor], Tensor]) -> fx.GraphModule:
    qann = _quantised(task, data, network, normalise)
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(task.seed))[:CALIBRATION_IMAGES]
    calibrate(qann, [normalise(part) for part in data.train.images[chosen].split(128)])
    return qann


def _train(
    task: Task,
    data: Dataset,
    network: fx.GraphModule,
    normalise: Callable[[Tensor], Tensor],
    epochs: int,
    folder: Path,
    label: str,
) -> list[Any]:
    """Train and save: after every epoch, so that a later divergence leaves the last good checkpoint."""

    def keep(_: object) -> None:
        save(network, folder, _about(task, data))

    if not epochs:
        keep(None)
    training = task.training(epochs, photographs=data.train.images.shape[1] == 3)
    return fit(network, data.train, normalise, training, after_epoch=keep, label=label, progress=task.progress)


def _verify_exactly(qann: fx.GraphModule, schedule: Schedule, x: Tensor) -> Comparison:
    """`verify` in float64, until the network has settled."""
    exact = copy.deepcopy(qann).double()
    return verify(exact, to_spiking(exact, schedule.weights), x.double())


def _about(task: Task, data: Dataset) -> Results:
    return {
        "model": task.model,
        "data": data.name,
        "size": task.size,
        "weights": Path(task.weights).name if task.weights else None,
        "bits": task.bits if isinstance(task.bits, int) else dict(task.bits),
        "output": task.output,
        "per_channel": task.per_channel,
        "float_epochs": task.float_epochs,
        "epochs": task.epochs,
        "learning_rate": task.learning_rate,
        "batch_size": task.batch_size,
        "autocast": task.autocast,
        "seed": task.seed,
        "device": str(device_of(task.device)),
        "versions": {"qffs": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _finish(results: Results, folder: Path) -> Results:
    write(folder / "results.json", lambda path: path.write_text(to_json(results), encoding="utf-8"))
    write(folder / "accuracy.png", lambda path: draw(results, path))
    return results
