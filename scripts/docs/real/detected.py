"""Measurements of a detector, for which there are no labels: the distances between the outputs of three networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.graph.nested import tensors
from qffs.measurement.batches import fitting, labeled
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.verification import TOLERANCE
from real.boxes import Reader, drawn, shared
from real.subject import Subject

FULL_PRECISION = "full precision"
DRAWN = 6
"""The number of images in a picture of boxes: those on which there are most in full precision."""


class _Run:
    """One run over all images, for a number of steps.

    distances: by image and output the cosine similarity of the quantized network's output to the full-precision one,
    their mean absolute difference, and the mean absolute value of the latter. settled: by image, the step from which on
    the spiking network's outputs are those of the quantized network but for rounding; T + 1 where they are not after
    T steps. spikes: at each step, of all images. boxes: of each image, by network: in full precision, and spiking
    after each number of steps in ``shown``.
    """

    def __init__(self, steps: int, reader: Reader, shown: Sequence[int]) -> None:
        self.reader, self.shown = reader, {t: f"SNN, T = {t}" for t in shown}
        self.boxes: dict[str, list[Tensor]] = {FULL_PRECISION: []} | {name: [] for name in self.shown.values()}
        self.distances: list[Tensor] = []
        self.settled: list[Tensor] = []
        self.spikes = torch.zeros(steps, dtype=torch.int64)

    def count(self, _: str, spikes: Tensor) -> None:
        """Add the spikes ``[2, T]`` of a layer."""
        self.spikes += spikes.sum(0)

    def compare(self, full: Any, qann: Any, readout: Any) -> None:
        """Add the outputs of one batch."""
        pairs = [(each.flatten(1), other.flatten(1)) for each, other in zip(tensors(full), tensors(qann), strict=True)]
        each = [(F.cosine_similarity(a, b), (a - b).abs().mean(1), a.abs().mean(1)) for a, b in pairs]
        self.distances.append(torch.stack([torch.stack(values, -1) for values in each], 1))
        self.settled.append(_equal_from(tensors(readout), tensors(qann)))
        self.boxes[FULL_PRECISION] += self.reader.read(tensors(full))
        for t, name in self.shown.items():
            self.boxes[name] += self.reader.read([output[min(t, len(output)) - 1] for output in tensors(readout)])


def _equal_from(readout: list[Tensor], qann: list[Tensor]) -> Tensor:
    """Return, by image, the step from which on every output ``[T, B, ...]`` is that of the quantized network."""
    apart = torch.zeros(readout[0].shape[:2], dtype=torch.bool)
    for output, expected in zip(readout, qann, strict=True):
        rounding = TOLERANCE * torch.finfo(output.dtype).eps * output.abs().max()
        apart |= (output - expected).abs().flatten(2).amax(2) > rounding
    steps = torch.arange(1, len(apart) + 1).unsqueeze(1)
    return (apart * steps).amax(0) + 1


def detected(
    subject: Subject, qann: nn.Module, snn: SpikingNetwork, steps: int, picture: Path | None = None
) -> dict[str, Any]:
    """Return the distances between outputs, the step from which on they are equal, spikes, and the boxes they share.

    qann, snn: in float64, where rounding decides no spike. steps: how many are tried first; there are more until the
    network has settled on all images. picture: a file to draw boxes in.
    """
    shown = [snn.schedule.steps + 1, steps]
    run = _run(subject, qann, snn, steps, shown)
    while bool(run.spikes[-1]):
        steps *= 2
        run = _run(subject, qann, snn, steps, [shown[0], steps])
    if picture is not None:
        _draw(run, subject, picture)
    distances, settled = torch.cat(run.distances).mean(0), torch.cat(run.settled)
    names = ("cosine", "difference", "size")
    return {
        "qann": [
            {"output": name} | dict(zip(names, row, strict=True))
            for name, row in zip(subject.outputs, distances.tolist(), strict=True)
        ],
        "equal": float((settled <= steps).double().mean()),
        "equal_from": int(settled.max()),
        "settled": max(int(run.spikes.nonzero().max()) + 1, snn.schedule.steps),
        "spikes_per_image": int(run.spikes.sum()) / len(subject.test),
        "boxes": [_shared(run, t) for t in run.shown],
    }


def _shared(run: _Run, steps: int) -> dict[str, int]:
    """Return how many boxes there are in full precision and after some steps, and how many of both are the same."""
    full, spiking = run.boxes[FULL_PRECISION], run.boxes[run.shown[steps]]
    same = sum(shared(boxes, others) for boxes, others in zip(full, spiking, strict=True))
    return {"steps": steps, "full_precision": sum(map(len, full)), "snn": sum(map(len, spiking)), "same": same}


def _draw(run: _Run, subject: Subject, picture: Path) -> None:
    counts = torch.tensor([len(boxes) for boxes in run.boxes[FULL_PRECISION]])
    most = counts.argsort(descending=True, stable=True)[:DRAWN]
    columns = {name: [boxes[number] for number in most.tolist()] for name, boxes in run.boxes.items()}
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawn(subject.test.read(most), columns, subject.boxes.names).save(picture)


@torch.no_grad()
def _run(subject: Subject, qann: nn.Module, snn: SpikingNetwork, steps: int, shown: Sequence[int]) -> _Run:
    """Return the results of one run."""
    run, network = _Run(steps, subject.boxes, shown), copy.deepcopy(subject.network).double()
    with track(f"simulation, {steps} steps", len(subject.test), "images") as bar:
        for x, _ in labeled(snn, subject.test, subject.normalize, fitting(subject.test, 32, steps), 0):
            run.compare(network(x), qann(x), snn(x, steps=steps, counter=run.count))
            bar.advance(len(x))
    return run
