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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.data.augment import mixed
from qffs.errors import Diverged, InvalidArgument
from qffs.graph.blocks import Block, blocks, joined, part
from qffs.graph.in_weights import put_norms_into_weights
from qffs.graph.replace import in_full_precision, refuse_without_sites
from qffs.nn.inspect import autocast_type, empty_like, evaluating, quantizers, without_autocast
from qffs.nn.quantizer import FUSED_FROM_PIXELS
from qffs.progress import Bar, track
from qffs.train.agreement import warn_of_little
from qffs.train.error import error, sizes
from qffs.train.seeds import check_seed
from qffs.train.values import Values, batch_size, gathered, laid_out, values

LEARNING_RATE, STEP_SIZE_RATE = 1e-3, 5e-3
"""Adam's learning rates: of weights and biases, and of step sizes, in units of each step size."""
LARGE = 0.2
"""The error from which on these are the rates. Below it, they shrink as its root: what is nearly right moves little."""
LEAST = 0.1
"""The part of itself to which a step size may shrink in one training, so that it stays above 0."""
BATCH = 64
"""The most images of a training step; there are fewer of large images."""
HELD_OUT = 1 / 8
"""The share of the images that are not trained on: they say when to stop, and which weights are the best."""
CHECKS, PATIENCE, SLOWER = 10, (5, 2), 0.3
"""How often a training is measured on held-out images; after how many times in a row without a gain it goes back to the
best weights and on with smaller rates, as networks without batch norm need them, and then ends; the factor of these."""


def reconstruct(
    qann: nn.Module,
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    *,
    steps: int = 3000,
    block_steps: int = 100,
    mix: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Train ``qann`` in place, without labels, until it computes what ``model`` does, and return it.

    - ``qann``: the network that `qffs.quantize` returned, calibrated. Statistics of batch norm are not trained.
    - ``model``: the network in full precision that was quantized. It is not changed.
    - ``batches``: input tensors ``[B, ...]``, or tuples of inputs, without labels. An eighth of the images is held out.
    - ``steps``: in which the whole network is trained; ``block_steps``: those for each block before that (see
      `qffs.graph.blocks.blocks`); 0 for none.
    - ``mix``: train the whole network on ``a x + (1 - a) y``, where x and y are two images and a is random; images
      ``[B, C, H, W]`` are also shifted, and those in color mirrored (see `qffs.data.augment.mixed`).
    - ``seed``: of all random numbers: the same seed gives the same weights on the same machine and threads.

    The error that is minimized is ``sum((y - t)^2) / sum(t^2)``, where y are outputs of the quantized block or network,
    and t those in full precision, ``max(t, 0)`` where an output spikes; the mean over several outputs. The result is
    never worse on the held-out images than ``qann`` was. It is an ordinary quantized network, whose spiking network
    equals it. Under `torch.autocast` the steps are computed in its type, which is faster where bfloat16 is.

    Raises `InvalidArgument` where ``model`` lacks a weight of ``qann``, for fewer than two images, for outputs without
    one row per image in dimension 0, and where the network does not run on the batches; `NotCalibrated` where a step
    size is not set; `Diverged` where NaN reaches an output. After an error all weights are as before. Warns with
    `qffs.errors.Inaccurate` where the predicted class is another one for more than 10 % of 50 held-out images or more.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(128, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x])
    >>> qann = qffs.reconstruct(qann, model, [x], steps=20, block_steps=20, progress=False)
    """
    check_seed(seed)
    qann = _checked(qann, steps, block_steps)
    generator = torch.Generator().manual_seed(seed)
    inputs = _shuffled(gathered(batches, len(qann.graph.find_nodes(op="placeholder")), "reconstruction"), generator)
    batch = batch_size(inputs, BATCH)
    autocast = autocast_type(empty_like(qann).device.type)
    networks = _Networks(qann, in_full_precision(qann, model).eval(), generator, batch, autocast)
    parts = blocks(qann)
    total = len(parts) * block_steps + steps
    pixels = total * batch * sum(x[0].numel() for x in inputs)
    with (
        torch.enable_grad(),
        without_autocast(),
        evaluating(qann),
        track("reconstruction", total, "steps", show=progress) as bar,
    ):
        whole = networks.task(joined(parts), inputs, inputs, mix)
        with _no_worse(whole, bar), _fused(qann, pixels >= FUSED_FROM_PIXELS):
            if block_steps:
                networks.minimize_blocks(parts, inputs, block_steps, bar)
            whole.minimize("the whole network", steps, bar)
        warn_of_little(*whole.held_out_outputs(), "quantize it with more bits, or train it with labels", stacklevel=2)
    return qann


def _checked(qann: nn.Module, *steps: int) -> fx.GraphModule:
    if any(type(each) is not int or each < 0 for each in steps):
        raise InvalidArgument(f"steps and block_steps must be whole numbers, not {' and '.join(map(str, steps))}")
    if not isinstance(qann, fx.GraphModule) or not quantizers(qann):
        raise InvalidArgument("reconstruct takes the network that qffs.quantize returned")
    refuse_without_sites(qann)
    if torch.is_inference_mode_enabled():
        raise InvalidArgument("reconstruct trains, which torch.inference_mode() forbids: call it outside")
    return qann


def _shuffled(inputs: Values, generator: torch.Generator) -> Values:
    if len(inputs[0]) < 2:
        raise InvalidArgument("reconstruction takes at least two images: one to train on, and one to hold out")
    order = torch.randperm(len(inputs[0]), generator=generator)
    return tuple(laid_out(x[order.to(x.device)], x) for x in inputs)


@contextmanager
def _no_worse(whole: _Task, bar: Bar) -> Iterator[None]:
    """At the end of the block, undo what was trained if the whole network gained nothing, or the block failed."""
    before, weights, better = whole.measure(), _copies(whole.parameters), False
    try:
        yield
        better = whole.measure() < before
        if not better:
            bar.say("nothing was gained: all weights are as before")
    finally:
        if not better:
            _restore(whole.parameters, weights)


@contextmanager
def _fused(qann: fx.GraphModule, fused: bool) -> Iterator[None]:
    """Let the quantizers of a network in eval mode compute in one compiled pass, if ``fused``, until the block ends."""
    before = {quantizer: quantizer.fused for quantizer in quantizers(qann).values() if fused}
    for quantizer in before:
        quantizer.train()
        quantizer.fused = True
    try:
        yield
    finally:
        for quantizer, was in before.items():
            quantizer.eval()
            quantizer.fused = was


@dataclass(frozen=True)
class _Networks:
    """A quantized network and the same in full precision; how to train parts of one to compute what the other does.

    batch: the images of a training step.
    """

    qann: fx.GraphModule
    reference: fx.GraphModule
    generator: torch.Generator
    batch: int
    autocast: torch.dtype | None

    def task(self, block: Block, exact: Values, quantized: Values, mix: bool = False) -> _Task:
        """Return the training of a block with these inputs."""
        student, teacher = part(self.qann, block), part(self.reference, block)
        for each in (student, teacher):
            put_norms_into_weights(each)
        return _Task(student, teacher, exact, quantized, self, mix)

    def minimize_blocks(self, parts: Sequence[Block], inputs: Values, steps: int, bar: Bar) -> None:
        """Train each block, with its inputs from the blocks before it as they are now."""
        exact = quantized = inputs
        for block in parts:
            task = self.task(block, exact, quantized)
            task.minimize(str(block.outputs[-1]), steps, bar)
            exact, quantized = task.targets, values(task.student, quantized)


class _Task:
    """A part of the quantized network to train, the ``student``, and the same part in full precision, the ``teacher``.

    exact, quantized: the values of their inputs for all images, in full precision and in the quantized network; the
    first images are held out. mix: train on mixed images, for which the teacher computes other targets.
    """

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        exact: Values,
        quantized: Values,
        networks: _Networks,
        mix: bool = False,
    ) -> None:
        self.student, self.teacher, self.exact, self.quantized = student, teacher, exact, quantized
        self.networks, self.mix = networks, mix
        self.parameters = [each for each in student.parameters() if each.requires_grad]
        self.device = empty_like(student).device
        self.targets = values(teacher, exact)
        if any(bool(t.isnan().any()) for t in self.targets):
            raise Diverged("NaN reached an output of the network in full precision: check data and weights")
        self.sizes = sizes(self.targets)
        self.count = len(exact[0])
        self.held_out = max(1, round(HELD_OUT * self.count))
        self.batch = min(networks.batch, self.count - self.held_out)

    def measure(self) -> float:
        """Return the error on the held-out images."""
        return float(error(*self.held_out_outputs(), self.sizes))

    def held_out_outputs(self) -> tuple[Values, Values]:
        """Return the outputs and the targets of the held-out images."""
        outputs = values(self.student, tuple(x[: self.held_out] for x in self.quantized))
        return outputs, tuple(t[: self.held_out] for t in self.targets)

    def minimize(self, label: str, steps: int, bar: Bar) -> None:
        """Train, and keep the parameters that were the best on the held-out images, perhaps the first ones."""
        if not (self.parameters and steps):
            bar.advance(steps)
            return
        optimizer = torch.optim.Adam(self._groups())
        first = best = self.measure()
        copies, scale = _copies(self.parameters), min(1.0, math.sqrt(first / LARGE))
        step, idle, slowed = 0, 0, False
        least = [LEAST * each.detach() for each in self._step_sizes()]
        while step < steps and idle < PATIENCE[slowed]:
            for group in optimizer.param_groups:
                group["lr"] = scale * group["peak"] * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            self._loss().backward()
            optimizer.step()
            for step_size, bound in zip(self._step_sizes(), least, strict=True):
                step_size.data.clamp_(min=bound)  # Adam's steps are as long for small ones
            step += 1
            bar.advance(1, f"{label}: error {100 * best:.1f} %")
            if step * CHECKS // steps > (step - 1) * CHECKS // steps:  # the last time after the last step
                now = self.measure()
                idle = 0 if now < best else idle + 1
                best, copies = (now, _copies(self.parameters)) if now < best else (best, copies)
                if idle == PATIENCE[0] and not slowed:
                    scale, idle, slowed = SLOWER * scale, 0, True
                    _restore(self.parameters, copies)
                    optimizer.state.clear()
        optimizer.zero_grad()
        _restore(self.parameters, copies)
        bar.advance(steps - step)
        bar.say(f"{label}: error {100 * first:.1f} % before, {100 * best:.1f} % after {step} steps")

    def _step_sizes(self) -> list[nn.Parameter]:
        return [each.step_size for each in quantizers(self.student).values()]

    def _groups(self) -> list[dict[str, Any]]:
        """Return Adam's groups, in which the rate of a step size is relative: it may be in any units."""
        step_sizes = set(map(id, self._step_sizes()))
        groups = []
        for each in self.parameters:
            scale = float(each.detach().abs().mean())
            peak = STEP_SIZE_RATE * scale if id(each) in step_sizes else LEARNING_RATE * max(1.0, scale)
            groups.append({"params": [each], "lr": peak, "peak": peak})
        return groups

    def _loss(self) -> Tensor:
        """Return the error on a batch of the images that are not held out."""
        generator = self.networks.generator
        at = torch.randint(self.held_out, self.count, (self.batch,), generator=generator)
        exact, quantized = (self._taken(each, at) for each in (self.exact, self.quantized))
        dtype = self.networks.autocast
        # The user's autocast around this call would keep the first rounded weights for all steps.
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None, cache_enabled=False):
            if self.mix:
                inputs = mixed(exact, generator)
                with torch.no_grad():
                    targets = self.teacher(*inputs)
            else:
                kept = (torch.rand(x.shape, generator=generator).to(x.device) < 0.5 for x in exact)
                inputs, targets = tuple(map(torch.where, kept, exact, quantized)), self._taken(self.targets, at)
            return error(self.student(*inputs), targets, self.sizes)

    def _taken(self, images: Values, at: Tensor) -> Values:
        """Return some of the images on the device."""
        return tuple(laid_out(x[at.to(x.device)].to(self.device), x) for x in images)


def _copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [each.detach().clone() for each in parameters]


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for parameter, copy in zip(parameters, copies, strict=True):
        parameter.copy_(copy)
