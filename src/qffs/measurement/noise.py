"""The four noises of conversion, neuron by neuron, and the effect of each remedy against them.

After step t a neuron has the potential u and the count of spikes Z. A_t is the total input of the neuron up to step t,
and ``Q(A_t)`` is the level of A_t in the neuron's quantizer. L is the level in the quantized network. A neuron has the
first of these noises whose condition holds, or none:

- occasional noise, over-fired: ``u < 0`` and ``Z > 0``, or ``Z > n``: the neuron has sent too many spikes;
- supra-threshold noise: ``u >= θ`` and ``Z < n``, and ``Q(A_t) > t``: one spike per step is too few for the input A_t;
- occasional noise, under-fired: ``u >= θ`` and ``Z < n``: the neuron's spikes are late;
- sub-threshold noise: ``Z != Q(A_t)``: the residue below the threshold is rounded differently from the quantizer;
- rate-coding noise: ``Q(A_t) != L``: the level is right for the input up to now, but the input is not yet complete.

Source: Li, Ma, Furber 2022, sections 4.3 and 4.4. There, rate-coding noise comes from inputs that are coded as random
spikes. An analog input has no such noise; here the name means the noise that remains because spikes need time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qffs.data import Images
from qffs.errors import InvalidArgument
from qffs.graph import batch_axis as of_images
from qffs.measurement.batches import Normalize, fitting, labeled
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.train import distributed
from qffs.verification import levels_of

NOISES = ("over_fired", "supra_threshold", "under_fired", "sub_threshold", "rate_coding")
"""The fields of `LayerNoise` that are noises, in the order in which `sort` tests them."""


@dataclass(frozen=True)
class LayerNoise:
    """The noises of one layer; `qffs.measurement.noise` defines them.

    layer: the path of the layer. neurons: the number of its neurons.
    over_fired, supra_threshold, under_fired, sub_threshold, rate_coding: the average number of neurons per image with
    this noise, after each step.
    settled: the step at which a neuron of the layer fires for the last time, as an average over the images.
    settled_last: the largest such step of all images; 0 if no neuron ever fires.
    """

    layer: str
    neurons: int
    over_fired: tuple[float, ...]
    supra_threshold: tuple[float, ...]
    under_fired: tuple[float, ...]
    sub_threshold: tuple[float, ...]
    rate_coding: tuple[float, ...]
    settled: float
    settled_last: int


@dataclass(frozen=True)
class Remedy:
    """The result of a run with one remedy switched off.

    off: the name of the remedy, or "nothing" for the run with all remedies. accuracy: the share of images that are
    classified correctly. agreement: the share of images for which the prediction is that of the quantized network.
    output_error: the root mean square, over all images, of the difference from the outputs of the quantized network,
    divided by the root mean square of these outputs; None where all these outputs are 0.
    """

    off: str
    accuracy: float
    agreement: float
    output_error: float | None


@dataclass(frozen=True)
class Noise:
    """The noises of a run of ``steps`` steps on ``images`` images.

    qann_accuracy: the accuracy of the quantized network. layers: the noises of each layer. remedies: the results after
    the last step, with all remedies and without each of them.
    """

    images: int
    steps: int
    qann_accuracy: float
    layers: tuple[LayerNoise, ...]
    remedies: tuple[Remedy, ...]


NOTHING, NEGATIVE_SPIKES, CAP, PRECHARGE, LONGER = (
    "nothing",
    "negative spikes",
    "cap",
    "pre-charge",
    "longer simulation",
)
SWITCHES: dict[str, dict[str, Any]] = {
    NEGATIVE_SPIKES: {"negative_spikes": False},
    CAP: {"cap": False},
    PRECHARGE: {"precharge": 0.0},
}
"""The fields of a firing rule that switch a remedy off.

`LONGER` is no field: without a longer simulation, the output is read after the last charge step.
"""


def without(snn: SpikingNetwork, remedy: str) -> SpikingNetwork:
    """Return a copy of a spiking network whose neurons lack a remedy of `SWITCHES`.

    Raises `InvalidArgument` if `SWITCHES` has no remedy of this name.
    """
    if remedy not in SWITCHES:
        raise InvalidArgument(f"the remedies of a neuron are {', '.join(SWITCHES)}, not {remedy!r}")
    changed = copy.deepcopy(snn)
    for _, neuron in changed.neurons():
        neuron.rule = replace(neuron.rule, **SWITCHES[remedy])
    return changed


def noise(
    snn: SpikingNetwork,
    qann: nn.Module,
    images: Images,
    normalize: Normalize,
    steps: int,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> Noise:
    """Return the noises of every neuron after every step, and the effect of each remedy; see `Noise`.

    qann: the quantized network from which the spiking network was converted. The other arguments are those of
    `qffs.measure`. Raises `InvalidArgument` if T is less than the number of charge steps, if the output is not
    ``[B, classes]``, or if the two networks do not have the same layers, and `DataError` if an image cannot be read.
    """
    snn.schedule.over(steps)
    variants = {NOTHING: snn} | {name: without(snn, name) for name in SWITCHES}
    counts, numbers = _Counts(snn, qann, steps, [*variants, LONGER]), distributed.share(len(images))
    size = batch_size or fitting(images, 32, steps)
    with torch.no_grad(), track(f"noise, {steps} steps", len(numbers), "images", show=progress) as bar:
        for x, labels in labeled(snn, images, normalize, size, workers):
            expected = counts.look(snn, qann, x, labels)
            for name, network in variants.items():
                readout = network(x, steps=steps)
                counts.compare(name, readout[-1], expected, labels)
                if name == NOTHING:
                    counts.compare(LONGER, readout[snn.schedule.steps - 1], expected, labels)
            bar.advance(len(labels))
    return counts.total(len(images))


class _Counts:
    """Sums over the images of this process."""

    def __init__(self, snn: SpikingNetwork, qann: nn.Module, steps: int, names: list[str]) -> None:
        self.steps = steps
        self.offsets = {path: m.offset for path, m in qann.named_modules() if isinstance(m, Quantizer)}
        missing = [path for path, _ in snn.neurons() if path not in self.offsets]
        if missing:
            raise InvalidArgument(f"the spiking network has neurons at {missing[0]}, the quantized one no quantizer")
        zeros = torch.zeros(steps, len(NOISES), dtype=torch.int64, device=snn.empty_like.device)
        self.suffering = {path: zeros.clone() for path, _ in snn.neurons()}
        self.settled = {path: zeros.new_zeros(2) for path in self.suffering}  # sum, largest
        self.neurons = dict.fromkeys(self.suffering, 0)
        self.hits = {name: zeros.new_zeros(2) for name in names}  # right, equal
        self.errors = {name: torch.zeros(2, dtype=torch.float64, device=zeros.device) for name in names}
        self.right = zeros.new_zeros(())

    def look(self, snn: SpikingNetwork, qann: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Count the noises of all neurons on one batch, step by step; return the outputs of the quantized network."""
        expected, levels = levels_of(qann, x)
        if not isinstance(expected, Tensor) or expected.dim() != 2:
            raise InvalidArgument("noise needs a network with one output of shape [B, classes]")
        self.right += (expected.argmax(-1) == labels).sum()
        networks = dict(snn.neurons())
        batch_dimensions = {
            str(n.target): of_images.dimension(n) for n in snn.graph.graph.nodes if n.target in networks
        }
        step = dict.fromkeys(networks, 0)
        fired = {path: torch.zeros(len(x), dtype=torch.int64, device=x.device) for path in networks}

        def observe(path: str, spikes: Tensor, state: tuple[Tensor, Tensor]) -> None:
            t, (_, sent) = step[path], state
            masks = sort(networks[path], self.offsets[path], state, levels[path], t + 1)
            self.suffering[path][t] += torch.stack([each.sum() for each in masks])
            fires = spikes[0].movedim(batch_dimensions[path], 0).reshape(len(x), -1).any(1)
            fired[path] = torch.where(fires, t + 1, fired[path])
            self.neurons[path] = sent.numel() // len(x)
            step[path] += 1

        snn.run(x, steps=self.steps, chunk=1, observer=observe)
        for path, last in fired.items():
            self.settled[path][0] += last.sum()
            self.settled[path][1] = torch.maximum(self.settled[path][1], last.max())
        return expected

    def compare(self, name: str, output: Tensor, expected: Tensor, labels: Tensor) -> None:
        """Add the results of one variant of the network on one batch."""
        predicted = output.argmax(-1)
        self.hits[name] += torch.stack([(predicted == labels).sum(), (predicted == expected.argmax(-1)).sum()])
        reference = expected.double()
        self.errors[name] += torch.stack([(output.double() - reference).square().sum(), reference.square().sum()])

    def total(self, images: int) -> Noise:
        """Return the averages over the images of all processes."""
        last = {path: int(distributed.gather(each[1]).max()) for path, each in self.settled.items()}
        neurons = {path: int(distributed.gather(torch.tensor(n)).max()) for path, n in self.neurons.items()}
        every = (self.right, *self.hits.values(), *self.settled.values(), *self.suffering.values())
        sums: Iterator[Any] = iter([part.tolist() for part in distributed.totals(*every)])
        right, hits = next(sums), {name: next(sums) for name in self.hits}
        settled, suffering = ({path: next(sums) for path in each} for each in (self.settled, self.suffering))
        layers = []
        for path, by_step in suffering.items():
            counts = {
                name: tuple(each / images for each in column)
                for name, column in zip(NOISES, zip(*by_step, strict=True), strict=True)
            }
            mean = settled[path][0] / images
            layers.append(LayerNoise(path, neurons[path], **counts, settled=mean, settled_last=last[path]))
        remedies = []
        for name, (accurate, equal) in hits.items():
            difference, reference = distributed.total(self.errors[name]).tolist()
            error = (difference / reference) ** 0.5 if reference else None
            remedies.append(Remedy(name, accurate / images, equal / images, error))
        return Noise(images, self.steps, right / images, tuple(layers), tuple(remedies))


def sort(neuron: Neuron, offset: float, state: tuple[Tensor, Tensor], level: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Return one mask for each of `NOISES`, in the shape of the state: the neurons that have this noise.

    A neuron has at most one noise. offset: the rounding offset of the quantizer. state: the potential and
    the spikes sent after ``steps`` steps. level: the level of the neuron in the quantized network.
    """
    potential, sent = state
    threshold, n = neuron.threshold.to(potential.dtype), neuron.highest
    residue = potential / threshold + (offset - neuron.precharge)
    due = (sent + residue.floor()).clamp(0, n)  # Q(A_t): u + θ Z is the pre-charge plus A_t
    late = (potential >= threshold) & (sent < n)
    conditions = (
        ((potential < 0) & (sent > 0)) | (sent > n),
        late & (due > steps),
        late,
        sent != due,
        due != level,
    )
    assigned, first = torch.zeros_like(late), []
    for mask in conditions:
        first.append(mask & ~assigned)
        assigned = assigned | mask
    return tuple(first)
