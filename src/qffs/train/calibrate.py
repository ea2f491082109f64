"""Calibration: the first step sizes of a quantized network, from a few batches without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import InvalidArgument, QffsError
from qffs.functional import lsq
from qffs.nn.inspect import evaluating, quantizers, without_autocast
from qffs.nn.quantizer import Quantizer
from qffs.progress import wait

SAMPLE, SAMPLE_OF_CHANNEL = 2**14, 2**10
"""The activations from which a rule computes a step size, chosen at random among those of all batches."""

OF_SAMPLES = ("squared_error", "percentile")
"""Rules that compute a step size from a sample of activations: the functions of `qffs.functional.step_size`."""
OF_OUTPUTS = ("output", "kl")
"""Rules that choose a step size by the outputs of the whole network, see `qffs.train.search`."""
OF_ACTIVATIONS = ("lsq", *OF_SAMPLES)
METHODS = (*OF_ACTIVATIONS, *OF_OUTPUTS)
"""The rules for first step sizes, by name."""


@torch.no_grad()
@without_autocast()
def calibrate(
    qann: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    method: str = "output",
    *,
    progress: bool = True,
) -> nn.Module:
    """Set every step size of ``qann`` from a few batches, in place, and return ``qann``.

    qann: the network that `qffs.quantize` returned; batches: input tensors ``[B, ...]``, or tuples of inputs, without
    labels; progress: whether a terminal shows that it takes its time. method: the rule for each step size s; x are the
    activations that reach the quantizer (or its channel, with a step size per channel) in all batches, in eval mode,
    and Q is the quantizer.

    - "lsq": LSQ's first step size, ``2 * mean(abs(x)) / sqrt(n)``, where a training starts;
    - "squared_error": the least ``sum((Q(x) - max(x, 0))^2)``;
    - "percentile": ``n s`` is no less than 99.9 % of the activations above 0;
    - "output", the default, where nothing is trained: from the best of these three on, one quantizer after the other
      gets the multiple of its step size with the least squared error of the network's outputs, relative to those
      without quantizers. It takes a few forward passes for each quantizer, of 128 images, fewer large ones, that are
      chosen at random. It is "lsq" where the inputs or outputs do not hold one row per image in dimension 0, where the
      batches have images of several sizes, where all outputs are whole numbers, and where ``qann`` is only a part of
      the network (its graph has to be that of `qffs.quantize`);
    - "kl": as "output", with the Kullback-Leibler divergence of the classes' probabilities instead.

    Earlier layers are quantized while a batch runs, so that later layers receive the activations of the quantized
    network. "squared_error" and "percentile" look at a random sample of the activations, the same in every call.

    Raises `InvalidArgument` where ``qann`` has no quantizer, where there is no batch, and where a batch is not a batch
    of inputs; `Diverged` where NaN or infinity reaches a quantizer. After an error all step sizes are as before.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> batches = [torch.randn(16, 4), torch.randn(16, 4)]
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=batches[0]), batches)
    >>> qann.eval()(batches[0]).shape
    torch.Size([16, 2])
    """
    if method not in METHODS:
        raise InvalidArgument(f"the method must be one of {', '.join(METHODS)}, not {method!r}")
    layers = list(quantizers(qann).values())
    if not layers:
        raise InvalidArgument("there is nothing to calibrate: the network has no quantizer; call qffs.quantize first")
    if isinstance(batches, Tensor):
        raise InvalidArgument("calibration takes several batches: give a list, even of one, such as [x]")
    with _restored_after_an_error(layers), evaluating(qann), wait("calibrating", show=progress):
        if method in OF_OUTPUTS:
            _search(qann, list(batches), layers, kl=method == "kl")
        else:
            _observe(qann, batches, layers, method)
    return qann


def _search(qann: nn.Module, batches: list[Any], layers: list[Quantizer], kl: bool) -> None:
    """Set the step sizes of the rule with the least error of the outputs, then search for better ones."""
    from qffs.graph.blocks import by_image  # these are imported here because a training needs none of them
    from qffs.train.search import Outputs
    from qffs.train.values import batch_size, gathered, sample

    first, *others = OF_ACTIVATIONS
    _observe(qann, batches, layers, first)
    if not isinstance(qann, fx.GraphModule) or not by_image(qann) or not _of_one_size(batches):
        if kl:
            raise InvalidArgument(
                '"kl" takes a network from qffs.quantize whose outputs are one row per image, and images of one size'
            )
        return
    inputs = gathered(batches, len(qann.graph.find_nodes(op="placeholder")), "calibration")
    outputs = Outputs(qann, sample(inputs, batch_size(inputs)), kl)  # computed again and again, so on one batch
    errors = {first: outputs.error()}
    for rule in others:
        _observe(qann, batches, layers, rule)
        errors[rule] = outputs.error()
    _observe(qann, batches, layers, min(errors, key=errors.__getitem__))
    outputs.search()


def _of_one_size(batches: list[Any]) -> bool:
    """Return whether the images of all batches, which a network has run on, have the same shapes."""
    inputs = (tuple(each) if isinstance(each, (tuple, list)) else (each,) for each in batches)
    return len({tuple(x.shape[1:] for x in each) for each in inputs}) == 1


def _observe(qann: nn.Module, batches: Iterable[Any], layers: list[Quantizer], method: str) -> None:
    """Set the step size of each quantizer, at each batch, from the activations of this batch and those before it."""
    seen: dict[Quantizer, _Mean | _Sample]
    if method in OF_SAMPLES:
        from qffs.functional import step_size  # imported here because a training needs LSQ's rule alone

        seen = {quantizer: _Sample(getattr(step_size, method)) for quantizer in layers}
    else:
        seen = {quantizer: _Mean() for quantizer in layers}
    hooks = [quantizer.register_forward_pre_hook(partial(_see, each)) for quantizer, each in seen.items()]
    try:
        for batch in batches:
            _run(qann, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(each.count for each in seen.values()):
        raise InvalidArgument("calibration needs at least one batch of images")


def _see(seen: _Mean | _Sample, quantizer: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(quantizer, Quantizer)
    seen.add(arguments[0], quantizer)


class _Mean:
    """The mean magnitude of the activations of each step size, from which LSQ's rule computes it."""

    def __init__(self) -> None:
        self.magnitude, self.count = torch.zeros((), dtype=torch.float64), 0

    def add(self, x: Tensor, quantizer: Quantizer) -> None:
        """Add the activations of a batch, and set the step size."""
        self.magnitude = self.magnitude + lsq.total(x.abs(), quantizer.step_size, torch.float64).cpu()
        self.count += x.numel() // quantizer.step_size.numel()
        quantizer.set_step_size_from(self.magnitude / self.count)


class _Sample:
    """A random sample of the activations of each step size ``[N, G]``, and the rule that computes these from it.

    Each number is drawn from all activations of its group: after a batch, with the share that this batch has in all.
    """

    def __init__(self, rule: Callable[[Tensor, int, float], Tensor]) -> None:
        self.rule, self.count, self.sample = rule, 0, torch.empty(0)
        self.generator = torch.Generator().manual_seed(0)

    def add(self, x: Tensor, quantizer: Quantizer) -> None:
        """Add the activations of a batch, and set the step size."""
        groups = x.movedim(1, -1).reshape(-1, x.shape[1]) if quantizer.step_size.dim() else x.reshape(-1, 1)
        self.count += len(groups)
        size = SAMPLE_OF_CHANNEL if quantizer.step_size.dim() else SAMPLE
        chosen = groups[torch.randint(len(groups), (size,), generator=self.generator).to(x.device)]
        chosen = chosen.to(lsq.accumulation_dtype(x.dtype))
        if quantizer.clip is not None:  # as the clipped ReLU does whose place the quantizer has
            chosen = chosen.clamp_max(quantizer.clip)
        is_new = torch.rand(size, 1, generator=self.generator) * self.count < len(groups)
        self.sample = torch.where(is_new.to(x.device), chosen, self.sample) if self.sample.numel() else chosen
        step_size = self.rule(self.sample, quantizer.highest, quantizer.offset)
        quantizer.set_first(step_size.view(quantizer.step_size.shape))


def _run(qann: nn.Module, batch: Any) -> None:
    inputs = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if isinstance(qann, fx.GraphModule):
        expected = len(qann.graph.find_nodes(op="placeholder"))
        if len(inputs) != expected or not all(isinstance(x, Tensor) and x.numel() for x in inputs):
            raise InvalidArgument(
                f"calibration takes batches of the network's {expected} inputs alone, without labels, as in "
                "(x for x, y in loader), and none of them empty"
            )
    try:
        qann(*inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        raise InvalidArgument(f"the network does not run on a batch of {tuple(inputs[0].shape)}: {error}") from error


@contextmanager
def _restored_after_an_error(layers: list[Quantizer]) -> Iterator[None]:
    before = {quantizer: quantizer.step_size.detach().clone() for quantizer in layers}
    try:
        yield
    except BaseException:
        for quantizer, step_size in before.items():
            quantizer.step_size.copy_(step_size)
            quantizer.forget()
        raise
