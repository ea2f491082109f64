"""What networks do on labelled images: accuracy, and for spiking networks accuracy, agreement and spikes by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qffs.data import Images
from qffs.errors import InvalidArgument, QffsError
from qffs.functional.fire import NeuronState
from qffs.network import SpikingNetwork
from qffs.nn.modes import evaluating
from qffs.progress import track

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activity:
    """Spikes of one layer by step, summed over its units and all images: ``positive`` and ``negative`` apart."""

    layer: str
    positive: tuple[int, ...]
    negative: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """A spiking network on labelled images, beside its quantised network where that was given.

    ``accuracy``: by step, the share of images that the read-out up to that step classifies rightly;
    ``activity``: spikes by layer and step; ``qann_accuracy``: the quantised network's accuracy on the same images;
    ``agreement``: by step, the share of images classified as the quantised network does, rightly or not.
    """

    images: int
    accuracy: tuple[float, ...]
    activity: tuple[Activity, ...]
    qann_accuracy: float | None = None
    agreement: tuple[float, ...] | None = None

    @property
    def spikes_per_image(self) -> tuple[float, ...]:
        """Spikes of the whole network an image up to each step, negative ones counted like positive ones."""
        totals, total = [], 0
        for step in range(len(self.accuracy)):
            total += sum(layer.positive[step] + layer.negative[step] for layer in self.activity)
            totals.append(total / self.images)
        return tuple(totals)


@torch.no_grad()
def check_fit(network: nn.Module, images: Images, normalise: Normalise, classes: int, name: str) -> None:
    """Raise `InvalidArgument` unless a network (``name`` in the message) runs on the images and has enough outputs."""
    shape = " x ".join(map(str, images.images.shape[1:]))
    try:
        ((x, _),) = _batches(network, Images(images.images[:1], images.labels[:1]), normalise, 1)
        with evaluating(network):
            output = network(x, steps=network.schedule.steps)[-1] if isinstance(network, SpikingNetwork) else network(x)
        outputs = output.shape[1:]
    except Exception as error:  # which one depends on the operator that does not fit
        if isinstance(error, QffsError) and not isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"{name} does not run on images of {shape}: {error}") from error
    if len(outputs) != 1 or outputs[0] < classes:
        raise InvalidArgument(f"{name} returns {list(outputs)} numbers an image, but the data have {classes} classes")


@torch.no_grad()
def accuracy(
    network: nn.Module, images: Images, normalise: Normalise, *, batch_size: int = 500, progress: bool = True
) -> float:
    """The share of images whose largest output is at their label; every image counts once."""
    right = 0
    with evaluating(network), track("accuracy", len(images), "images", show=progress) as bar:
        for x, labels in _batches(network, images, normalise, batch_size):
            right += int((network(x).argmax(-1) == labels).sum())
            bar.advance(len(labels))
    return right / len(images)


@dataclass
class _Spikes:
    """Sums spikes by layer and step over batches; what `SpikingNetwork.run` calls after each layer."""

    positive: dict[str, Tensor] = field(default_factory=dict)
    negative: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, layer: str, spikes: Tensor, _: NeuronState) -> None:
        for sums, sign in ((self.positive, spikes > 0), (self.negative, spikes < 0)):
            count = sign.flatten(1).sum(1)
            sums[layer] = sums[layer] + count if layer in sums else count

    def activity(self) -> tuple[Activity, ...]:
        return tuple(
            Activity(layer, tuple(self.positive[layer].tolist()), tuple(self.negative[layer].tolist()))
            for layer in self.positive
        )


@torch.no_grad()
def measure(
    snn: SpikingNetwork,
    images: Images,
    normalise: Normalise,
    steps: int,
    *,
    qann: nn.Module | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Measurement:
    """Run the spiking network, and the quantised one where given, on every image; see `Measurement`.

    normalise: uint8 images ``[B, C, H, W]`` to the network's input; steps: T, one simulation gives all steps up to T.
    Raises `InvalidArgument` where T is less than the charge steps or the output is not ``[B, classes]``.
    """
    snn.schedule.over(steps)
    spikes = _Spikes()
    right, equal, qann_right = torch.zeros(steps), torch.zeros(steps), 0
    with track(f"simulation, {steps} steps", len(images), "images", show=progress) as bar:
        for x, labels in _batches(snn, images, normalise, batch_size):
            readout, _ = snn.run(x, steps=steps, observer=spikes)
            if not isinstance(readout, Tensor) or readout.dim() != 3:
                raise InvalidArgument("accuracy needs a network with one output of shape [B, classes]")
            predicted = readout.argmax(-1)
            right += (predicted == labels).sum(1).cpu()
            if qann is not None:
                with evaluating(qann):
                    expected = qann(x).argmax(-1)
                qann_right += int((expected == labels).sum())
                equal += (predicted == expected).sum(1).cpu()
            bar.advance(len(labels))
    count = len(images)
    return Measurement(
        count,
        _shares(right, count),
        spikes.activity(),
        None if qann is None else qann_right / count,
        None if qann is None else _shares(equal, count),
    )


def _shares(hits: Tensor, count: int) -> tuple[float, ...]:
    return tuple(hit / count for hit in hits.tolist())


def _batches(
    network: nn.Module, images: Images, normalise: Normalise, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    reference = next(tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    for start in range(0, len(images), batch_size):
        chosen = slice(start, start + batch_size)
        x = normalise(images.images[chosen]).to(reference.device, reference.dtype)
        yield x, images.labels[chosen].to(reference.device)
