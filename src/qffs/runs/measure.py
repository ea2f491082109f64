"""The spiking network of a checkpoint on labeled test images: its accuracy, its noises, and what it costs."""

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
from qffs.models.checkpoint import load_kind
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.report.results import by_layer, by_step, of_cost, of_noise
from qffs.runs.inputs import Normalize, normalizer, seeded_device
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.stream import check_margin


@dataclass(frozen=True)
class Trial:
    """A measurement as a user asks for it: which network, on which images, for how many steps.

    ``data`` and ``size``: as `qffs.data.load` takes them; ``steps``: T, by default 8 and at least twice the charge
    steps; ``images``: how many of the test images, spread evenly over them, by default all; ``qann``: the checkpoint of
    the quantized network that the spiking one came from.
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
        """The same with the folder ``qann`` beside the checkpoint, as runs write it, where none was named."""
        return replace(self, qann=self.qann or self.checkpoint.parent / "qann")

    def load(self) -> Evaluation:
        """Load everything and see that it fits; raises where it does not, before images are decoded."""
        device = seeded_device(self.device, self.seed)
        loaded = load_kind("snn", self.checkpoint, "run qffs convert on it first")
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
    """What is measured: networks, images and how they become inputs, and over how many steps.

    ``model`` and ``data``: the names of the network and the images.
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
        """What all results begin with."""
        return {"model": self.model, "data": self.data, "images": len(self.images)}


def _step_sizes(network: nn.Module) -> list[tuple[int, list[float]]]:
    """Return the highest level and the step sizes of every quantizer, or the thresholds of its neurons."""
    layers: list[tuple[int, Tensor]] = [(m.highest, m.step_size) for m in network.modules() if isinstance(m, Quantizer)]
    layers += [(m.highest, m.threshold) for m in network.modules() if isinstance(m, Neuron)]
    return sorted((highest, values.flatten().tolist()) for highest, values in layers)


def simulate(trial: Trial, stop_when: Sequence[float] = ()) -> Results:
    """Return accuracy and spikes by step, beside the quantized network where the trial names one.

    stop_when: margins at which images are stopped early.
    """
    for margin in stop_when:
        check_margin(margin)
    of = trial.load()
    measured = measure(
        of.snn, of.images, of.normalize, of.steps, qann=of.qann, stop_when=stop_when, progress=trial.progress
    )
    results = of.head | {"snn": by_step(measured), "layers": by_layer(measured.activity)}
    if measured.stopping:
        results["stopping"] = [dataclasses.asdict(each) for each in measured.stopping]
    if measured.qann_accuracy is not None:
        results["qann"] = {"accuracy": measured.qann_accuracy}
    return results


def noise(trial: Trial) -> Results:
    """Return the four noises by layer and step, and what each remedy is worth; see `qffs.measurement.noise`."""
    of = trial.with_qann_beside().load()
    assert of.qann is not None
    measured = noise_of(of.snn, of.qann, of.images, of.normalize, steps=of.steps, progress=trial.progress)
    return of.head | of_noise(measured)


def energy(trial: Trial, constants: Energy) -> Results:
    """Return operations, energy and bits sent; see `qffs.measurement.cost`."""
    of = trial.load()
    measured = cost(of.snn, of.images, of.normalize, of.steps, energy=constants, progress=trial.progress)
    return of.head | of_cost(measured)
