"""Measurements of a checkpoint's spiking network on labeled test images: accuracy, noises and cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from qffs.data import Dataset, Images
from qffs.data import load as load_data
from qffs.errors import CheckpointError, InvalidArgument
from qffs.files import Results
from qffs.measurement.accuracy import measure
from qffs.measurement.batches import check_fit
from qffs.measurement.cost import cost
from qffs.measurement.energy import Energy
from qffs.measurement.noise import noise as noise_of
from qffs.models.load import load_kind
from qffs.models.trained import is_name
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.report.results import by_layer, by_step, of_cost, of_noise
from qffs.runs.inputs import Normalize, normalizer, seeded_device
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.stream import check_margin


@dataclass(frozen=True)
class Trial:
    """The arguments of a measurement: which network, on which images, for how many steps.

    ``data`` and ``size``: the arguments of `qffs.data.load`; ``steps``: T, by default 8, or twice the charge steps if
    that is more; ``images``: how many of the test images, evenly spread, by default all; ``qann``: the checkpoint of
    the quantized network from which the spiking one was converted.
    """

    checkpoint: Path
    data: str = "digits"
    size: int | None = None
    steps: int | None = None
    images: int | None = None
    qann: Path | None = None
    device: str = "auto"
    seed: int = 0
    progress: bool = True

    def with_qann_beside(self) -> Trial:
        """Return a copy whose ``qann``, if it is None, is the folder ``qann`` next to the checkpoint.

        A trained network of the library is its own.
        """
        beside = self.checkpoint if is_name(self.checkpoint) else self.checkpoint.parent / "qann"
        return replace(self, qann=self.qann or beside)

    def load(self) -> Evaluation:
        """Load the networks and the images, check that they fit, and return them.

        Raises `InvalidArgument`, `CheckpointError` or `DataError` before images are decoded.
        """
        device = seeded_device(self.device, self.seed)
        loaded = load_kind("snn", self.checkpoint, "simulate takes a spiking one, which qffs convert makes")
        snn = loaded.network.to(device)
        assert isinstance(snn, SpikingNetwork)
        steps = snn.schedule.usual_steps if self.steps is None else self.steps
        snn.schedule.over(steps)
        qann = None if self.qann is None else self._qann(self.qann, snn).to(device)
        dataset = load_data(self.data, self.size, progress=self.progress)
        normalize = normalizer(dataset, device)
        for network, source in ((snn, self.checkpoint), (qann, self.qann)):
            if network is not None:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                name, classes = f"the network in {source}", len(dataset.classes)
                check_fit(network, dataset.test, normalize, classes=classes, name=name)
        return Evaluation(
            model=loaded.about.get("model", str(self.checkpoint)),
            snn=snn,
            qann=qann,
            data=dataset.name,
            images=self._some(dataset),
            normalize=normalize,
            steps=steps,
        )

    def _qann(self, folder: Path, snn: SpikingNetwork) -> nn.Module:
        qann: nn.Module = load_kind("qann", folder, "--qann takes a quantized one").network
        if _step_sizes(snn) != _step_sizes(qann):
            raise CheckpointError(f"{self.checkpoint} was not converted from {folder}: their step sizes differ")
        return qann

    def _some(self, dataset: Dataset) -> Images:
        count = len(dataset.test) if self.images is None else self.images
        if not 1 <= count <= len(dataset.test):
            raise InvalidArgument(f"images must be from 1 to the {len(dataset.test):,} of {dataset.name}, not {count}")
        return dataset.test.select(torch.linspace(0, len(dataset.test) - 1, count).long())


@dataclass(frozen=True)
class Evaluation:
    """The loaded parts of a measurement: networks, images, the function from images to inputs, and T.

    ``model`` and ``data``: the names of the network and of the data.
    """

    model: str
    snn: SpikingNetwork
    qann: nn.Module | None
    data: str
    images: Images
    normalize: Normalize
    steps: int

    @property
    def head(self) -> Results:
        """The first entries of all results: ``model``, ``data`` and ``images``."""
        return {"model": self.model, "data": self.data, "images": len(self.images)}


def _step_sizes(network: nn.Module) -> list[tuple[int, list[float]]]:
    """Return the highest level and the step sizes of every quantizer, or the thresholds of its neurons."""
    layers: list[tuple[int, Tensor]] = [(m.highest, m.step_size) for m in network.modules() if isinstance(m, Quantizer)]
    layers += [(m.highest, m.threshold) for m in network.modules() if isinstance(m, Neuron)]
    return sorted((highest, values.flatten().tolist()) for highest, values in layers)


def simulate(trial: Trial, stop_when: Sequence[float] = ()) -> Results:
    """Return accuracy and spikes after each step, and agreement with the quantized network if the trial names one.

    A trained network of the library is always compared with its quantized network.
    stop_when: margins at which each image is also stopped early.
    """
    for margin in stop_when:
        check_margin(margin)
    evaluation = (trial.with_qann_beside() if is_name(trial.checkpoint) else trial).load()
    measured = measure(
        evaluation.snn,
        evaluation.images,
        evaluation.normalize,
        evaluation.steps,
        qann=evaluation.qann,
        stop_when=stop_when,
        progress=trial.progress,
    )
    results = evaluation.head | {"snn": by_step(measured), "layers": by_layer(measured.activity)}
    if measured.stopping:
        results["stopping"] = [dataclasses.asdict(each) for each in measured.stopping]
    if measured.qann_accuracy is not None:
        results["qann"] = {"accuracy": measured.qann_accuracy}
    return results


def noise(trial: Trial) -> Results:
    """Return the four noises by layer and step, and accuracies without each remedy; see `qffs.measurement.noise`."""
    evaluation = trial.with_qann_beside().load()
    assert evaluation.qann is not None
    measured = noise_of(
        evaluation.snn,
        evaluation.qann,
        evaluation.images,
        evaluation.normalize,
        steps=evaluation.steps,
        progress=trial.progress,
    )
    return evaluation.head | of_noise(measured)


def energy(trial: Trial, **constants: float) -> Results:
    """Return operations, energy and sent bits; see `qffs.measurement.cost`. constants: the fields of `Energy`."""
    operation = Energy(**constants)
    evaluation = trial.load()
    measured = cost(
        evaluation.snn,
        evaluation.images,
        evaluation.normalize,
        evaluation.steps,
        energy=operation,
        progress=trial.progress,
    )
    return evaluation.head | of_cost(measured)
