"""A trial: the spiking network of a checkpoint on labeled test images, for as many steps as asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qffs.models.checkpoint import load_kind
from qffs.data import Dataset, Images
from qffs.data import load as load_data
from qffs.errors import CheckpointError, InvalidArgument
from qffs.runs.inputs import Normalize, inputs, prepare
from qffs.measurement.batches import check_fit
from qffs.spiking.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.files import Results
import dataclasses
from collections.abc import Sequence
from qffs.measurement.energy import Energy
from qffs.measurement.cost import cost
from qffs.measurement.accuracy import measure
from qffs.measurement.noise import noise as noise_of
from qffs.files import Results
from qffs.report.results import by_layer, by_step, of_cost, of_noise
from qffs.spiking.stream import check_margin


@dataclass(frozen=True)
class Trial:
    """What a user asks to be tried.

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

    def prepare(self) -> Materials:
        """Load everything and see that it fits; raises where it does not, before images are decoded."""
        where = prepare(self.device, self.seed)
        loaded = load_kind("snn", self.checkpoint, "run qffs convert on it first")
        snn = loaded.network.to(where)
        assert isinstance(snn, SpikingNetwork)
        steps = snn.schedule.usual_steps if self.steps is None else self.steps
        snn.schedule.over(steps)
        qann = None if self.qann is None else self._qann(self.qann, snn).to(where)
        dataset = load_data(self.data, self.size, progress=self.progress)
        normalize = inputs(dataset, where)
        for network, source in ((snn, self.checkpoint), (qann, self.qann)):
            if network is not None:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                check_fit(network, dataset.test, normalize, len(dataset.classes), f"the network in {source}")
        return Materials(snn, qann, loaded.about, dataset, self._some(dataset), normalize, steps)

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
class Materials:
    """What a trial works with."""

    snn: SpikingNetwork
    qann: nn.Module | None
    about: dict[str, Any]
    dataset: Dataset
    images: Images
    normalize: Normalize
    steps: int

    def said(self, trial: Trial) -> Results:
        """What the results of every trial begin with."""
        model = self.about.get("model", str(trial.checkpoint))
        return {"model": model, "data": self.dataset.name, "images": len(self.images)}


def _step_sizes(network: nn.Module) -> list[tuple[int, list[float]]]:
    """The highest level and the step sizes of every quantizer, or the thresholds of its neurons."""
    found: list[tuple[int, Tensor]] = [(m.highest, m.step_size) for m in network.modules() if isinstance(m, Quantizer)]
    found += [(m.highest, m.threshold) for m in network.modules() if isinstance(m, Neuron)]
    return sorted((highest, values.flatten().tolist()) for highest, values in found)


def simulate(trial: Trial, stop_when: Sequence[float] = ()) -> Results:
    """Accuracy and spikes by step, beside the quantized network where given; stop_when: margins to stop images at."""
    for margin in stop_when:
        check_margin(margin)
    ready = trial.prepare()
    measured = measure(
        ready.snn,
        ready.images,
        ready.normalize,
        ready.steps,
        qann=ready.qann,
        stop_when=stop_when,
        progress=trial.progress,
    )
    results = ready.said(trial) | {"snn": by_step(measured), "layers": by_layer(measured.activity)}
    if measured.stopping:
        results["stopping"] = [dataclasses.asdict(each) for each in measured.stopping]
    if measured.qann_accuracy is not None:
        results["qann"] = {"accuracy": measured.qann_accuracy}
    return results


def noise(trial: Trial) -> Results:
    """The four noises by layer and step, and what each remedy is worth; see `qffs.measurement.noise`."""
    trial = trial.with_qann_beside()
    ready = trial.prepare()
    assert ready.qann is not None
    found = noise_of(ready.snn, ready.qann, ready.images, ready.normalize, ready.steps, progress=trial.progress)
    return ready.said(trial) | of_noise(found)


def energy(trial: Trial, constants: Energy) -> Results:
    """Operations, energy and bits sent; see `qffs.measurement.cost`."""
    ready = trial.prepare()
    found = cost(ready.snn, ready.images, ready.normalize, ready.steps, energy=constants, progress=trial.progress)
    return ready.said(trial) | of_cost(found)
