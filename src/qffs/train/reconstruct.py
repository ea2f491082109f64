"""Reconstruction: train a quantized network without labels, until it computes what the network in full precision does.

First block by block, on the error of each block's outputs, as in Li et al., "BRECQ: pushing the limit of post-training
quantization by block reconstruction", ICLR 2021. The inputs of a block are mixed as in Wei et al., "QDrop: randomly
dropping quantization for extremely low-bit post-training quantization", ICLR 2022: each number is that of the quantized
network or that in full precision. Then the whole network, on the outputs in full precision (Hinton, Vinyals, Dean,
"Distilling the knowledge in a neural network", 2015) for sums of two images (Zhang et al., "mixup: beyond empirical
risk minimization", ICLR 2018). Only activations are quantized here, so weights are trained as they are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument
from qffs.graph.blocks import blocks, joined, part
from qffs.graph.replace import in_full_precision
from qffs.nn.inspect import empty_like, evaluating, quantizers, without_autocast
from qffs.progress import Bar, track
from qffs.train.seeds import check_seed

LEARNING_RATE = 1e-3
BATCH = 64
"""The images of a training step."""
HELD_OUT = 1 / 8
"""The share of the images that are not trained on: they say when to stop, and which weights are the best."""
CHECKS, PATIENCE = 10, 5
"""How often a training is measured on held-out images, and after how many times in a row without a gain it ends."""
IN_MEMORY = 2**29
"""The bytes up to which the values of a node for all images are kept in memory; beyond it, in a temporary file."""

Values = tuple[Tensor, ...]
"""A tensor ``[N, ...]`` for each input or output of a block: its values for all images, or for those of a batch."""


def reconstruct(
    qann: nn.Module,
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    *,
    steps: int = 1000,
    block_steps: int = 100,
    mix: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Train ``qann`` in place, without labels, until it computes what ``model`` does, and return it.

    - ``qann``: the network that `qffs.quantize` returned, calibrated. Its weights, biases and step sizes are trained;
      the statistics of batch norm stay as they are.
    - ``model``: the network in full precision that was quantized. It is not changed.
    - ``batches``: input tensors ``[B, ...]``, or tuples of inputs, without labels. An eighth of the images is held out.
    - ``steps``: the steps in which the whole network is trained; 0 for none.
    - ``block_steps``: the steps for each block before that (see `qffs.graph.blocks.blocks`); 0 for none.
    - ``mix``: train the whole network on ``a x + (1 - a) y``, where x and y are two images and a is random. Images
      ``[B, C, H, W]`` are also shifted by up to an eighth of their sides, and those with three channels mirrored.
    - ``seed``: of all random numbers: the same seed gives the same weights, on the same machine.

    The error that is minimized is ``sum((y - t)^2) / sum(t^2)``, where y are outputs of the quantized block or network,
    and t those in full precision; ``max(t, 0)`` where an output spikes. The result is never worse on the held-out
    images than ``qann`` was. It is an ordinary quantized network, whose spiking network equals it.

    Raises `InvalidArgument` where ``model`` is not the network that was quantized, or there are fewer than two images;
    `NotCalibrated` where a step size is not set.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(128, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x])
    >>> qann = qffs.reconstruct(qann, model, [x], steps=20, block_steps=20, progress=False)
    """
    check_seed(seed)
    if not isinstance(qann, fx.GraphModule) or not quantizers(qann):
        raise InvalidArgument("reconstruct takes the network that qffs.quantize returned")
    inputs, generator = _gathered(batches, len(qann.graph.find_nodes(op="placeholder"))), torch.Generator()
    order = torch.randperm(len(inputs[0]), generator=generator.manual_seed(seed))
    inputs = tuple(x[order.to(x.device)] for x in inputs)
    parts, reference = blocks(qann), in_full_precision(qann, model).eval()
    student, teacher = (part(network, joined(parts)).eval() for network in (qann, reference))
    total = len(parts) * block_steps + steps
    with without_autocast(), evaluating(qann), track("reconstruction", total, "steps", show=progress) as bar:
        whole = _Work(student, teacher, inputs, inputs, generator, mix)
        before, weights = whole.measure(), _copies(whole.parameters)
        exact = quantized = inputs
        for block in parts if block_steps else ():
            student, teacher = (part(network, block).eval() for network in (qann, reference))
            work = _Work(student, teacher, exact, quantized, generator)
            work.minimize(str(block.outputs[-1]), block_steps, bar)
            exact, quantized = work.targets, values(student, quantized)
        whole.minimize("the whole network", steps, bar)
        if not whole.measure() < before:
            _restore(whole.parameters, weights)
    return qann


class _Work:
    """A part of the quantized network to train, the ``student``, and the same part in full precision, the ``teacher``.

    exact, quantized: the values of their inputs for all images, in full precision and in the quantized network; the
    first images are held out. mix: train on mixed images, for which the teacher is asked anew.
    """

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        exact: Values,
        quantized: Values,
        generator: torch.Generator,
        mix: bool = False,
    ) -> None:
        self.student, self.teacher, self.exact, self.quantized = student, teacher, exact, quantized
        self.generator, self.mix = generator, mix
        self.parameters = [each for each in student.parameters() if each.requires_grad]
        self.device = empty_like(student).device
        self.targets = values(teacher, exact)
        self.count = len(exact[0])
        self.held_out = max(1, round(HELD_OUT * self.count))

    @torch.no_grad()
    def measure(self) -> float:
        """Return the error on the held-out images."""
        outputs = values(self.student, tuple(x[: self.held_out] for x in self.quantized))
        return float(error(outputs, tuple(t[: self.held_out] for t in self.targets)))

    def minimize(self, label: str, steps: int, bar: Bar) -> None:
        """Train, and keep the parameters that were the best on the held-out images, perhaps the first ones."""
        if not (self.parameters and steps):
            bar.advance(steps)
            return
        optimizer = torch.optim.Adam(self.parameters, LEARNING_RATE)
        first = best = self.measure()
        copies, idle, step = _copies(self.parameters), 0, 0
        while step < steps and idle < PATIENCE:
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            self._loss().backward()
            optimizer.step()
            step += 1
            bar.advance(1, f"{label}: error {100 * best:.1f} %")
            if step % max(1, steps // CHECKS) == 0:
                now = self.measure()
                idle = 0 if now < best else idle + 1
                best, copies = (now, _copies(self.parameters)) if now < best else (best, copies)
        _restore(self.parameters, copies)
        bar.advance(steps - step)
        bar.say(f"{label}: error {100 * first:.1f} % before, {100 * best:.1f} % after {step} steps")

    def _loss(self) -> Tensor:
        """Return the error on a batch of the images that are not held out."""
        count = min(BATCH, self.count - self.held_out)
        at = torch.randint(self.held_out, self.count, (count,), generator=self.generator)
        exact, quantized = (tuple(x[at].to(self.device) for x in each) for each in (self.exact, self.quantized))
        if self.mix:
            inputs = mixed(exact, self.generator)
            with torch.no_grad():
                targets = self.teacher(*inputs)
            return error(self.student(*inputs), targets)
        kept = (torch.rand(x.shape, generator=self.generator).to(x.device) < 0.5 for x in exact)
        inputs = tuple(map(torch.where, kept, exact, quantized))
        return error(self.student(*inputs), tuple(t[at].to(self.device) for t in self.targets))


def error(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return ``sum((y - t)^2) / sum(t^2)`` of outputs y and targets t, the mean over the pairs of both.

    >>> error([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 1.0])])
    tensor(0.5000)
    """
    tiny = torch.finfo(targets[0].dtype).tiny
    errors = [(y - t).square().sum() / t.square().sum().clamp_min(tiny) for y, t in zip(outputs, targets, strict=True)]
    return torch.stack(errors).mean()


def mixed(inputs: Values, generator: torch.Generator) -> Values:
    """Return ``a x + (1 - a) y`` for each image x of a batch, another image y of it, and a random from 0 to 1.

    Images ``[B, C, H, W]`` are shifted by up to an eighth of their sides before, the same for a batch, and some of
    those with three channels are mirrored. Several inputs of a network are mixed alike. Inputs that are no
    floating-point numbers, such as the numbers of tokens, are returned as they are, and so are all that go with them.
    """
    if not all(x.is_floating_point() for x in inputs):
        return inputs
    count = len(inputs[0])
    share, other = torch.rand(count, generator=generator), torch.randperm(count, generator=generator)
    mirrored, shift = torch.rand(count, generator=generator) < 0.5, torch.rand(2, generator=generator)
    return tuple(_mixed(_moved(x, mirrored, shift.tolist()), share, other) for x in inputs)


def _moved(x: Tensor, mirrored: Tensor, shift: Sequence[float]) -> Tensor:
    if x.dim() != 4:
        return x
    most = [side // 8 for side in x.shape[2:]]
    top, left = (int(part * (2 * each + 1)) for part, each in zip(shift, most, strict=True))
    padded = F.pad(x, (most[1], most[1], most[0], most[0]))
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return x.where(~mirrored.to(x.device).view(-1, 1, 1, 1), x.flip(3)) if x.shape[1] == 3 else x


def _mixed(x: Tensor, share: Tensor, other: Tensor) -> Tensor:
    return x[other.to(x.device)].lerp(x, share.to(x).view(-1, *(1,) * (x.dim() - 1)))


def _gathered(batches: Iterable[Tensor | tuple[Tensor, ...]], count: int) -> Values:
    """Return each of the network's ``count`` inputs for all images; raises `InvalidArgument` for other batches."""
    if isinstance(batches, Tensor):
        raise InvalidArgument("reconstruction takes several batches: give a list, even of one, such as [x]")
    tuples = [tuple(each) if isinstance(each, (tuple, list)) else (each,) for each in batches]
    if any(len(each) != count or not all(isinstance(x, Tensor) for x in each) for each in tuples):
        raise InvalidArgument(
            f"reconstruction takes batches of the network's {count} inputs alone, without labels, as in "
            "(x for x, y in loader)"
        )
    if sum(len(each[0]) for each in tuples) < 2:
        raise InvalidArgument("reconstruction takes at least two images: one to train on, and one to hold out")
    return tuple(map(torch.cat, zip(*tuples, strict=True)))


@torch.no_grad()
def values(network: fx.GraphModule, inputs: Values) -> Values:
    """Return the outputs of a network for all images, computed in batches, in tensors on the CPU or in files."""
    device, results = empty_like(network).device, list[Tensor]()
    for start in range(0, len(inputs[0]), 2 * BATCH):
        rows = slice(start, start + 2 * BATCH)
        outputs = network(*(x[rows].to(device) for x in inputs))
        results = results or [_empty(y, len(inputs[0])) for y in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[rows] = output
    return tuple(results)


def _empty(like: Tensor, count: int) -> Tensor:
    """Return a tensor of ``count`` rows, in a temporary file where it has more bytes than `IN_MEMORY`."""
    shape = (count, *like.shape[1:])
    if math.prod(shape) * like.element_size() <= IN_MEMORY:
        return torch.empty(shape, dtype=like.dtype)
    with tempfile.NamedTemporaryFile() as file:  # a file that is mapped stays until the tensor is gone
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)


def _copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [each.detach().clone() for each in parameters]


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for parameter, copy in zip(parameters, copies, strict=True):
        parameter.copy_(copy)
