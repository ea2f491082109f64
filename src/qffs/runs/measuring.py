"""Jobs that measure the spiking network of a checkpoint: its simulation, its noises, what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from qffs.runs.measure import Trial
from qffs.measure import Energy, cost, measure
from qffs.measure import noise as noise_of
from qffs.report.results import Results, by_layer, by_step, of_cost, of_noise
from qffs.spiking.stream import check_margin


def simulate(trial: Trial, stop_when: Sequence[float] = ()) -> Results:
    """Accuracy and spikes by step, beside the quantised network where given; stop_when: margins to stop images at."""
    for margin in stop_when:
        check_margin(margin)
    ready = trial.prepare()
    measured = measure(
        ready.snn,
        ready.images,
        ready.normalise,
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
    """The four noises by layer and step, and what each remedy is worth; see `qffs.measure.noise`."""
    trial = trial.with_qann_beside()
    ready = trial.prepare()
    assert ready.qann is not None
    found = noise_of(ready.snn, ready.qann, ready.images, ready.normalise, ready.steps, progress=trial.progress)
    return ready.said(trial) | of_noise(found)


def energy(trial: Trial, constants: Energy) -> Results:
    """Operations, energy and bits sent; see `qffs.measure.cost`."""
    ready = trial.prepare()
    found = cost(ready.snn, ready.images, ready.normalise, ready.steps, energy=constants, progress=trial.progress)
    return ready.said(trial) | of_cost(found)
