"""What networks do on labeled images: accuracy, and for spiking networks accuracy, agreement and spikes by step.

Of several processes (`qffs.train.distributed`) each runs a share of the images and all return the same: what they add
up are whole numbers, so that it is exactly what one process alone returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.measurement.activity import Activity
from qffs.measurement.batches import Normalize, fitting, labeled
from qffs.nn.inspect import empty_like, evaluating
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.stream import check_margin, margins
from qffs.train import distributed


@dataclass(frozen=True)
class Stopping:
    """What stopping each image at a margin gives (`qffs.spiking.stream.Stream.run`).

    ``accuracy``: of what was read out of each when it stopped; ``steps``: that an image took on average.
    """

    margin: float
    accuracy: float
    steps: float


@dataclass(frozen=True)
class Measurement:
    """A spiking network on labeled images, beside its quantized network where that was given.

    ``accuracy``: by step, the share of images that the read-out up to that step classifies rightly;
    ``activity``: spikes by layer and step; ``qann_accuracy``: the quantized network's accuracy on the same images;
    ``agreement``: by step, the share of images classified as the quantized network does, rightly or not;
    ``stopping``: what stopping early gives, for each margin that was asked for.
    """

    images: int
    accuracy: tuple[float, ...]
    activity: tuple[Activity, ...]
    qann_accuracy: float | None = None
    agreement: tuple[float, ...] | None = None
    stopping: tuple[Stopping, ...] = ()

    @property
    def spikes_per_image(self) -> tuple[float, ...]:
        """Spikes of the whole network an image up to each step, negative ones counted like positive ones."""
        totals, total = [], 0
        for step in range(len(self.accuracy)):
            total += sum(layer.positive[step] + layer.negative[step] for layer in self.activity)
            totals.append(total / self.images)
        return tuple(totals)


@torch.no_grad()
def accuracy(
    network: nn.Module,
    images: Images,
    normalize: Normalize,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> float:
    """The share of images whose largest output is at their label; every image counts once.

    batch_size: images at a time, by default 500 and fewer of large images; workers: processes that read images ahead,
    beside this one.
    """
    own = distributed.share(len(images))
    right = torch.zeros((), dtype=torch.int64, device=empty_like(network).device)
    with evaluating(network), track("accuracy", len(own), "images", show=progress) as bar:
        for x, labels in labeled(network, images, normalize, batch_size or fitting(images, 500), workers):
            right += (network(x).argmax(-1) == labels).sum()
            bar.advance(len(labels))
    return int(distributed.total(right)) / len(images)


@dataclass
class _Counts:
    """What is counted by step over the images of this process, each as a whole number of type int64 ``[T]``.

    ``right``, ``equal``, ``qann_right``: images, as in `Measurement`, the last one ``[]``; ``stopped``: by margin,
    images classified rightly when they stopped, and steps taken, ``[margins, 2]``; ``spikes``: by layer and
    sign, what `SpikingNetwork` counts after each layer. They stay on the device until all images are counted.
    """

    right: Tensor
    equal: Tensor
    qann_right: Tensor
    stopped: Tensor
    spikes: dict[tuple[str, int], Tensor]

    @staticmethod
    def none(snn: SpikingNetwork, steps: int, margins: int) -> _Counts:
        """Zeros, of all layers too, for a process may have no image."""
        zeros = torch.zeros(steps, dtype=torch.int64, device=snn.empty_like.device)
        spikes = {(layer, sign): zeros.clone() for layer, _ in snn.neurons() for sign in (1, -1)}
        return _Counts(zeros, zeros.clone(), zeros[0].clone(), zeros.new_zeros(margins, 2), spikes)

    def count(self, layer: str, spikes: Tensor) -> None:
        """Add the spikes of one layer on some images, positive and negative ones: ``[2, T]``."""
        for sign, sent in zip((1, -1), spikes, strict=True):
            self.spikes[layer, sign] += sent

    def total(self) -> _Counts:
        """The sums over all processes, on the CPU."""
        parts = (self.right, self.equal, self.qann_right[None], self.stopped.flatten(), *self.spikes.values())
        right, equal, qann_right, stopped, *spikes = (part.cpu() for part in distributed.totals(*parts))
        return _Counts(right, equal, qann_right[0], stopped.view(-1, 2), dict(zip(self.spikes, spikes, strict=True)))

    def activity(self) -> tuple[Activity, ...]:
        """The spikes by layer, in the order of computation."""
        by_layer = {key: tuple(count.tolist()) for key, count in self.spikes.items()}
        return tuple(Activity(layer, by_layer[layer, 1], by_layer[layer, -1]) for layer, sign in by_layer if sign > 0)


@torch.no_grad()
def measure(
    snn: SpikingNetwork,
    images: Images,
    normalize: Normalize,
    steps: int,
    *,
    qann: nn.Module | None = None,
    stop_when: Sequence[float] = (),
    batch_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Measurement:
    """Run the spiking network, and the quantized one where given, on every image; see `Measurement`.

    normalize: uint8 images ``[B, C, H, W]`` to the network's input; steps: T, one simulation gives all steps up to T;
    stop_when: margins to stop images at early, after T steps at the latest; batch_size: images at a time, by default 32
    and fewer of large images or for many steps; workers: as in `accuracy`.
    Raises `InvalidArgument` where T is less than the charge steps, a margin is no number above 0 or the output is not
    ``[B, classes]``.
    """
    for margin in stop_when:
        check_margin(margin)
    snn.schedule.over(steps)
    batch_size = batch_size or fitting(images, 32, steps)
    counts, own = _Counts.none(snn, steps, len(stop_when)), distributed.share(len(images))
    with track(f"simulation, {steps} steps", len(own), "images", show=progress) as bar:
        for x, labels in labeled(snn, images, normalize, batch_size, workers):
            _count(counts, snn, qann, x, labels, stop_when)
            bar.advance(len(labels))
    sums, count = counts.total(), len(images)
    return Measurement(
        count,
        _shares(sums.right, count),
        sums.activity(),
        None if qann is None else int(sums.qann_right) / count,
        None if qann is None else _shares(sums.equal, count),
        tuple(
            Stopping(margin, right / count, taken / count)
            for margin, (right, taken) in zip(stop_when, sums.stopped.tolist(), strict=True)
        ),
    )


def _count(
    counts: _Counts, snn: SpikingNetwork, qann: nn.Module | None, x: Tensor, labels: Tensor, stop_when: Sequence[float]
) -> None:
    """Run both networks on one batch and add what they do to the counts."""
    readout = snn(x, steps=len(counts.right), counter=counts.count)
    if not isinstance(readout, Tensor) or readout.dim() != 3:
        raise InvalidArgument("accuracy needs a network with one output of shape [B, classes]")
    predicted = readout.argmax(-1)
    right = predicted == labels
    counts.right += right.sum(1)
    for number, margin in enumerate(stop_when):
        stops = margins(readout) >= margin
        stops[-1] = True
        step = stops.int().argmax(0, keepdim=True)  # the first
        counts.stopped[number] += torch.stack([right.gather(0, step).sum(), (step + 1).sum()])
    if qann is None:
        return
    with evaluating(qann):
        expected = qann(x).argmax(-1)
    counts.qann_right += (expected == labels).sum()
    counts.equal += (predicted == expected).sum(1)


def _shares(hits: Tensor, count: int) -> tuple[float, ...]:
    return tuple(hit / count for hit in hits.tolist())
