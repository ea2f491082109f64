"""The four noises of conversion, neuron by neuron, and what each remedy against them is worth.

After step t a neuron has potential u and has sent Z, on balance; A_t is what has arrived, and ``Q(A_t)`` the level that
its quantizer gives that. L is the level of the quantized network. A neuron suffers, the first of these that holds,

- occasional noise, over-fired: ``u < 0`` and ``Z > 0``, or ``Z > n``: it sent spikes too many;
- supra-threshold noise: ``u >= θ`` and ``Z < n``, and ``Q(A_t) > t``: more arrived than one spike a step can pass on;
- occasional noise, under-fired: ``u >= θ`` and ``Z < n``: the spikes owed came, or were paid back, too late;
- sub-threshold noise: ``Z != Q(A_t)``: the residue below the threshold is rounded otherwise than by the quantizer;
- rate-coding noise: ``Q(A_t) != L``: its level is right for what has arrived, which is not yet what should;

or none. Source: Li, Ma, Furber 2022, sections 4.3 and 4.4; there, rate-coding noise is that of inputs coded by random
spikes, which an analog input does not have. What is called so here is what codes of spikes over time still have.
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
from qffs.functional.neuron import NeuronState
from qffs.graph import batch_axis as of_images
from qffs.measurement.batches import Normalize, fitting, labeled
from qffs.nn.neuron import Neuron
from qffs.nn.quantizer import Quantizer
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork
from qffs.train import distributed
from qffs.verification import levels_of

NOISES = ("over_fired", "supra_threshold", "under_fired", "sub_threshold", "rate_coding")
"""As fields of `LayerNoise`, in the order in which they are looked for."""


@dataclass(frozen=True)
class LayerNoise:
    """How many of the ``neurons`` of a layer suffer each noise, by step and on average an image; see the module.

    ``settled``: the step from which on no neuron of the layer fires, on average over the images, and ``settled_last``
    for the last of them; 0 where none ever fires.
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
    """What the network does without a remedy, ``off``, or with all of them.

    ``accuracy``: share of images classified rightly; ``agreement``: as the quantized network does; ``output_error``:
    how far the outputs are from the quantized network's, root mean square over all images, as a share of its own root
    mean square; None where all its outputs are 0.
    """

    off: str
    accuracy: float
    agreement: float
    output_error: float | None


@dataclass(frozen=True)
class Noise:
    """The noises of a run of ``steps`` steps, by layer, and the worth of each remedy at its end."""

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
"""The fields of a firing rule that switch a remedy off; a longer simulation is one not read at the last charge step."""


def without(snn: SpikingNetwork, remedy: str) -> SpikingNetwork:
    """A copy of a spiking network whose neurons lack a remedy of `SWITCHES`.

    Raises `InvalidArgument` where there is none of this name.
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
    """Look at every neuron after every step, beside the quantized network that the spiking one came from; see `Noise`.

    Arguments as in `qffs.measurement.measure`. Raises `InvalidArgument` where T is less than the charge steps, the
    output is not ``[B, classes]``, or the networks' layers are not the same.
    """
    snn.schedule.over(steps)
    variants = {NOTHING: snn} | {name: without(snn, name) for name in SWITCHES}
    counts, own = _Counts(snn, qann, steps, [*variants, LONGER]), distributed.share(len(images))
    size = batch_size or fitting(images, 32, steps)
    with torch.no_grad(), track(f"noise, {steps} steps", len(own), "images", show=progress) as bar:
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
        """Sort every neuron of one batch into its noise, step by step; returned: the quantized network's outputs."""
        expected, levels = levels_of(qann, x)
        if not isinstance(expected, Tensor) or expected.dim() != 2:
            raise InvalidArgument("noise needs a network with one output of shape [B, classes]")
        self.right += (expected.argmax(-1) == labels).sum()
        networks = dict(snn.neurons())
        places = {str(n.target): of_images.dimension(n) for n in snn.graph.graph.nodes if n.target in networks}
        step = dict.fromkeys(networks, 0)
        fired = {path: torch.zeros(len(x), dtype=torch.int64, device=x.device) for path in networks}

        def see(path: str, spikes: Tensor, state: NeuronState) -> None:
            t = step[path]
            found = sort(networks[path], self.offsets[path], state, levels[path], t + 1)
            self.suffering[path][t] += torch.stack([each.sum() for each in found])
            fires = spikes[0].movedim(places[path], 0).reshape(len(x), -1).any(1)
            fired[path] = torch.where(fires, t + 1, fired[path])
            self.neurons[path] = state.sent.numel() // len(x)
            step[path] += 1

        snn.run(x, steps=self.steps, chunk=1, observer=see)
        for path, last in fired.items():
            self.settled[path][0] += last.sum()
            self.settled[path][1] = torch.maximum(self.settled[path][1], last.max())
        return expected

    def compare(self, name: str, output: Tensor, expected: Tensor, labels: Tensor) -> None:
        """Add what one variant of the network does on one batch."""
        predicted = output.argmax(-1)
        self.hits[name] += torch.stack([(predicted == labels).sum(), (predicted == expected.argmax(-1)).sum()])
        wanted = expected.double()
        self.errors[name] += torch.stack([(output.double() - wanted).square().sum(), wanted.square().sum()])

    def total(self, images: int) -> Noise:
        """The averages over the images of all processes."""
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
            wrong, own = distributed.total(self.errors[name]).tolist()
            error = (wrong / own) ** 0.5 if own else None
            remedies.append(Remedy(name, accurate / images, equal / images, error))
        return Noise(images, self.steps, right / images, tuple(layers), tuple(remedies))


def sort(neuron: Neuron, offset: float, state: NeuronState, level: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Which neurons suffer each of `NOISES` after so many steps, as masks of the state's shape; at most one each.

    offset: the rounding offset of the quantizer; level: what it computes in the quantized network.
    """
    potential, sent = state
    threshold, n = neuron.threshold.to(potential.dtype), neuron.highest
    residue = potential / threshold + (offset - neuron.precharge)
    due = (sent + residue.floor()).clamp(0, n)  # Q(A_t): u + θ Z is what arrived and the pre-charge
    owed = (potential >= threshold) & (sent < n)
    found = (
        ((potential < 0) & (sent > 0)) | (sent > n),
        owed & (due > steps),
        owed,
        sent != due,
        due != level,
    )
    taken, first = torch.zeros_like(owed), []
    for mask in found:
        first.append(mask & ~taken)
        taken = taken | mask
    return tuple(first)
