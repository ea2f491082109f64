"""Accuracy of networks on labeled images, and for spiking networks accuracy, agreement and spikes after each step.

With several processes (`qffs.train.distributed`), each process runs a share of the images, and all processes return the
same result. The sums are sums of whole numbers, so the result is exactly the result of one process alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.measurement.activity import Activity
from qffs.measurement.batches import Normalize, fitting, inputs, labeled
from qffs.nn.inspect import empty_like, evaluating
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.stream import check_margin, margins
from qffs.train import distributed


@dataclass(frozen=True)
class Stopping:
    """The result of stopping each image early, when its read-out reaches a margin (`qffs.spiking.stream.Stream.run`).

    margin: the margin, in the units of the output.
    accuracy: the share of images that are classified correctly by their read-out at the step at which they stopped.
    steps: the average number of steps per image.
    """

    margin: float
    accuracy: float
    steps: float


@dataclass(frozen=True)
class Measurement:
    """The result of `measure`: a spiking network on labeled images, beside its quantized network if there is one.

    images: the number of images.
    accuracy: for each of the T steps, the share of images that the read-out after that step classifies correctly.
    activity: the spikes by layer and step, summed over all images.
    qann_accuracy: the accuracy of the quantized network on the same images; None without a quantized network.
    agreement: for each step, the share of images for which the spiking network predicts the same class as the
        quantized network, correct or not; None without a quantized network.
    stopping: the result of early stopping, one entry for each margin in ``stop_when``.
    """

    images: int
    accuracy: tuple[float, ...]
    activity: tuple[Activity, ...]
    qann_accuracy: float | None = None
    agreement: tuple[float, ...] | None = None
    stopping: tuple[Stopping, ...] = ()

    @property
    def spikes_per_image(self) -> tuple[float, ...]:
        """Spikes of the whole network per image, up to each step; negative spikes count like positive ones."""
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
    """Return the share of images whose largest output is at the index of their label.

    network: returns ``[B, classes]``. images: the labeled images. normalize: maps uint8 images ``[B, C, H, W]`` to the
    input of the network. batch_size: images at a time, by default 500, and fewer where the images are large. workers:
    the number of additional processes that read images ahead. progress: show a progress bar on stderr.

    Raises `DataError` if an image cannot be read.
    """
    numbers = distributed.share(len(images))
    right = torch.zeros((), dtype=torch.int64, device=empty_like(network).device)
    with evaluating(network), track("accuracy", len(numbers), "images", show=progress) as bar:
        for x, labels in labeled(network, images, normalize, batch_size or fitting(images, 500), workers):
            right += (network(x).argmax(-1) == labels).sum()
            bar.advance(len(labels))
    return int(distributed.total(right)) / len(images)


@torch.no_grad()
def predictions(
    network: nn.Module, images: Images, normalize: Normalize, *, batch_size: int | None = None, progress: bool = True
) -> Tensor:
    """Return the index of the largest output of each image, int64 ``[N]`` on the CPU; the labels are not read.

    The arguments are those of `accuracy`; every process runs all images.
    """
    predicted = list[Tensor]()
    with evaluating(network), track("predictions", len(images), "images", show=progress) as bar:
        for numbers in torch.arange(len(images)).split(batch_size or fitting(images, 500)):
            predicted.append(network(inputs(network, normalize(images.read(numbers)))).argmax(-1).cpu())
            bar.advance(len(numbers))
    return torch.cat(predicted)


@dataclass
class _Counts:
    """Counts over the images of this process, as int64 tensors that stay on the device until all images are counted.

    right: images that the spiking network classifies correctly after each step, ``[T]``.
    equal: images for which it predicts the same class as the quantized network after each step, ``[T]``.
    qann_right: images that the quantized network classifies correctly, ``[]``.
    stopped: for each margin, the correctly classified images and the total of steps, ``[margins, 2]``.
    spikes: by layer and sign (1 or -1), the spikes at each step, ``[T]``.
    """

    right: Tensor
    equal: Tensor
    qann_right: Tensor
    stopped: Tensor
    spikes: dict[tuple[str, int], Tensor]

    @staticmethod
    def none(snn: SpikingNetwork, steps: int, margins: int) -> _Counts:
        """Return zeros for all counts, with an entry for every layer, because a process may have no images."""
        zeros = torch.zeros(steps, dtype=torch.int64, device=snn.empty_like.device)
        spikes = {(layer, sign): zeros.clone() for layer, _ in snn.neurons() for sign in (1, -1)}
        return _Counts(zeros, zeros.clone(), zeros[0].clone(), zeros.new_zeros(margins, 2), spikes)

    def count(self, layer: str, spikes: Tensor) -> None:
        """Add the spikes ``[2, T]`` of one layer on one batch: positive spikes, then negative spikes."""
        for sign, sent in zip((1, -1), spikes, strict=True):
            self.spikes[layer, sign] += sent

    def total(self) -> _Counts:
        """Return the sums over all processes, on the CPU."""
        parts = (self.right, self.equal, self.qann_right[None], self.stopped.flatten(), *self.spikes.values())
        right, equal, qann_right, stopped, *spikes = (part.cpu() for part in distributed.totals(*parts))
        return _Counts(right, equal, qann_right[0], stopped.view(-1, 2), dict(zip(self.spikes, spikes, strict=True)))

    def activity(self) -> tuple[Activity, ...]:
        """Return the spikes by layer, in the order of computation."""
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
    """Return the accuracy and the spikes of a spiking network on labeled images, after each of T steps.

    snn: a spiking network whose output is ``[B, classes]``, from `qffs.to_spiking`.
    images: the labeled images, uint8 ``[N, C, H, W]``, for example ``qffs.data.load("digits").test``.
    normalize: a function from uint8 images ``[B, C, H, W]`` to the input of the network, such as `Dataset.normalize`.
    steps: T, the number of time steps; one simulation gives the results after each step from 1 to T.
    qann: the quantized network, to compare with; None compares with nothing.
    stop_when: margins above 0. For each margin, the result contains the accuracy and the average number of steps if
        each image stops as soon as its largest output is ahead of the second largest by the margin, at the latest
        after T steps.
    batch_size: images at a time, by default 32, and fewer where the images are large or T is large.
    workers: the number of additional processes that read images ahead.
    progress: show a progress bar on stderr.

    Returns a `Measurement`: ``accuracy``, ``activity`` and ``spikes_per_image`` for each step, ``qann_accuracy`` and
    ``agreement`` where a quantized network is passed, and ``stopping`` for each margin.

    Raises `InvalidArgument` if T is less than the number of charge steps, if a margin is not a number above 0, or if
    the output is not ``[B, classes]``; `DataError` if an image cannot be read.
    """
    for margin in stop_when:
        check_margin(margin)
    snn.schedule.over(steps)
    batch_size = batch_size or fitting(images, 32, steps)
    counts, numbers = _Counts.none(snn, steps, len(stop_when)), distributed.share(len(images))
    with track(f"simulation, {steps} steps", len(numbers), "images", show=progress) as bar:
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
            Stopping(margin, right / count, steps_taken / count)
            for margin, (right, steps_taken) in zip(stop_when, sums.stopped.tolist(), strict=True)
        ),
    )


def _count(
    counts: _Counts, snn: SpikingNetwork, qann: nn.Module | None, x: Tensor, labels: Tensor, stop_when: Sequence[float]
) -> None:
    """Run both networks on one batch and add the results to the counts."""
    readout = snn(x, steps=len(counts.right), counter=counts.count)
    if not isinstance(readout, Tensor) or readout.dim() != 3:
        raise InvalidArgument("accuracy needs a network with one output of shape [B, classes]")
    predicted = readout.argmax(-1)
    right = predicted == labels
    counts.right += right.sum(1)
    for number, margin in enumerate(stop_when):
        stops = margins(readout) >= margin
        stops[-1] = True
        step = stops.int().argmax(0, keepdim=True)  # argmax returns the first maximum
        counts.stopped[number] += torch.stack([right.gather(0, step).sum(), (step + 1).sum()])
    if qann is None:
        return
    with evaluating(qann):
        expected = qann(x).argmax(-1)
    counts.qann_right += (expected == labels).sum()
    counts.equal += (predicted == expected).sum(1)


def _shares(hits: Tensor, count: int) -> tuple[float, ...]:
    return tuple(hit / count for hit in hits.tolist())
