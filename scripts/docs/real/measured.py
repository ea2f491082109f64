"""Measurements of a network with published weights: in full precision, quantized by calibration, and spiking."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import qffs
from qffs.errors import QffsError
from qffs.measurement.accuracy import accuracy
from qffs.measurement.activity import Activity
from qffs.measurement.batches import fitting
from qffs.measurement.cost import cost
from qffs.progress import track, wait
from qffs.report.results import by_step
from qffs.spiking.network import SpikingNetwork
from qffs.verification import Comparison
from real.detected import detected
from real.subject import Subject

ENERGY_IMAGES, VERIFIED_IMAGES = 16, 4
"""The number of images on which operations are counted, and on which the networks are compared neuron by neuron."""

METHOD = "output"
"""The rule of calibration, which is the default of `qffs.calibrate`."""

FLOAT32, FLOAT64 = PRECISIONS = ("float32", "float64")

Results = dict[str, Any]


@dataclass(frozen=True)
class Reconstruction:
    """A reconstruction: its steps, 0 for calibration alone, and whether they are computed in bfloat16."""

    steps: int = 0
    bfloat16: bool = False


CALIBRATED = Reconstruction()


def measured(
    subject: Subject,
    bits: Sequence[int],
    precision: str = FLOAT32,
    reconstruction: Reconstruction = CALIBRATED,
    pictures: Path | None = None,
) -> Results:
    """Return the results of a network: in full precision, and one entry of ``quantized`` for each number of bits.

    precision: the type of the quantized and the spiking network of a classifier, `FLOAT32` or `FLOAT64`; a detector's
    networks are compared in float64. pictures: the folder in which the boxes of a detector are drawn, a file for each
    number of bits.
    """
    precision = FLOAT64 if subject.outputs else precision
    results: Results = {
        "data": subject.data,
        "images": len(subject.test),
        "shape": list(subject.test.shape),
        "calibration_images": len(subject.calibration),
        "energy_images": min(ENERGY_IMAGES, len(subject.test)),
        "verified_images": min(VERIFIED_IMAGES, len(subject.test)),
        "precision": precision,
        "outputs": list(subject.outputs),
    }
    if not subject.outputs:
        results["full_precision"] = {"accuracy": accuracy(subject.network, subject.test, subject.normalize)}
    return results | {"quantized": [_quantized(subject, each, precision, reconstruction, pictures) for each in bits]}


def _quantized(
    subject: Subject, bits: int, precision: str, reconstruction: Reconstruction, pictures: Path | None
) -> Results:
    """Return the results at a number of bits, or the ``reason`` why the network cannot be converted."""
    try:
        with wait(f"quantizing to {bits} bits"):
            qann = qffs.quantize(subject.network, bits, example=subject.normalize(subject.calibration[:2]))
        made = _made(subject, qann, bits, reconstruction)
        snn, compared = _verified(subject, qann.eval())
    except QffsError as error:
        return {"bits": bits, "reason": f"{type(error).__name__}: {error}"}
    results: Results = {
        "bits": bits,
        **made,
        "charge_steps": snn.schedule.steps,
        "neurons": sum(units for _, units in compared.layers) // compared.images,
    }
    steps = 2 * max(compared.settled, snn.schedule.steps)  # of all images, some need longer than those few
    if precision == FLOAT32:  # as users run it: batch norm is folded in this type too
        snn = qffs.to_spiking(qann.float())
    if subject.outputs:
        results |= detected(subject, qann, snn, steps, pictures and pictures / f"boxes_{bits}_bits.png")
    else:
        results |= _classified(subject, qann, snn, steps)
    images = subject.test.select(_spread(len(subject.test), ENERGY_IMAGES))
    counted = cost(snn.float(), images, subject.normalize, results["settled"])
    return results | {"energy_pj": counted.energy_pj, "spiking_pj": counted.spiking_pj, "uncounted": counted.uncounted}


def _made(subject: Subject, qann: fx.GraphModule, bits: int, reconstruction: Reconstruction) -> Results:
    """Calibrate a quantized network and reconstruct it, in place; return what was gained, and how long it took."""
    batches = list(_calibration(subject, bits))
    start = time.monotonic()
    qffs.calibrate(qann, batches, METHOD)
    result: Results = {"method": METHOD, "calibration_seconds": time.monotonic() - start}
    if reconstruction.steps:
        if not subject.outputs:
            result["calibrated"] = {"accuracy": accuracy(qann, subject.test, subject.normalize)}
        start = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=reconstruction.bfloat16):
            qffs.reconstruct(qann, subject.network, batches, steps=reconstruction.steps)
        result |= asdict(reconstruction) | {"reconstruction_seconds": time.monotonic() - start}
    return result


def _calibration(subject: Subject, bits: int) -> Iterator[Tensor]:
    with track(f"calibration, {bits} bits", len(subject.calibration), "images") as bar:
        for part in subject.calibration.split(fitting(subject.test, 64)):
            yield subject.normalize(part)
            bar.advance(len(part))


def _verified(subject: Subject, qann: fx.GraphModule) -> tuple[SpikingNetwork, Comparison]:
    """Return the spiking network and its comparison with the quantized network on a few test images, in float64.

    Both networks are in float64 afterward.
    """
    x = subject.normalize(subject.test.read(_spread(len(subject.test), VERIFIED_IMAGES))).double()
    with wait("comparing neuron by neuron"):
        snn = qffs.to_spiking(qann.double())
        return snn, qffs.verify(qann, snn, x, tie_tolerance=0)


def _spread(count: int, most: int) -> Tensor:
    """Return the indices of at most ``most`` of ``count`` images, evenly spread."""
    return torch.linspace(0, count - 1, min(most, count)).long()


def _classified(subject: Subject, qann: nn.Module, snn: SpikingNetwork, steps: int) -> Results:
    """Return accuracies, agreement and spikes after each step of as many steps as the network needs to settle.

    steps: how many are tried first.
    """
    while True:
        result = qffs.measure(snn, subject.test, subject.normalize, steps, qann=qann)
        settled = max(_last(result.activity), snn.schedule.steps)
        if settled < steps:
            break
        steps *= 2
    return {"qann": {"accuracy": result.qann_accuracy}, "settled": settled, "snn": by_step(result)[:settled]}


def _last(activity: Sequence[Activity]) -> int:
    """Return the last step at which a neuron fired on any image."""
    counts = [[up + down for up, down in zip(each.positive, each.negative, strict=True)] for each in activity]
    return max(step for step, spikes in enumerate(map(sum, zip(*counts, strict=True)), 1) if spikes)
