"""The verbs: a network becomes a quantized network, that becomes a spiking network, and the two are compared."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import Diverged, InvalidArgument, NotCalibrated, NothingToQuantize, QffsError
from qffs.functional import lsq
from qffs.functional.lsq import NEAREST
from qffs.graph import plan as planning
from qffs.graph.classify import classify, write_sites
from qffs.graph.fold import fold
from qffs.graph.replace import activations, output_quantizers, place_quantizers, swap_neurons
from qffs.graph.site import has_site
from qffs.graph.trace.trace import Example, trace
from qffs.method import Choice, FiringRule, Levels, Schedule, by_pattern, resolve
from qffs.nn.full_precision import FullPrecision
from qffs.nn.inspect import evaluating, quantizers
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork

OFFSET = NEAREST + 1e-4
"""The rounding offset of quantizers and pre-charge of neurons: to nearest, with the ties moved off their lattice.

In a network of few-bit weights, sums often end exactly on a tie, and a third of a charge, added three times, need
not be the whole: at 1/2 itself, rounding errors then decide, differently on both sides. The same small shift on both
sides leaves such sums clear of every tie (Law 6 of tests/spiking/test_network.py measures it).
"""


def plan(model: nn.Module, example: Example) -> planning.Plan:
    """What would become of every call of ``model``, without changing anything; ``print`` it for a table."""
    _refuse_converted(model)
    return planning.plan(trace(model, example))


def quantize(
    model: nn.Module,
    bits: Choice | None = None,
    output: int | str | Levels = "analog",
    *,
    example: Example,
    levels: Choice | None = None,
    per_channel: bool = False,
    offset: float = OFFSET,
    strict: bool = False,
) -> fx.GraphModule:
    """A quantized copy of ``model`` (a QANN): an LSQ quantizer at every ReLU, everything else as it was.

    bits: b of the hidden activations, levels 0..2^b - 1, by default 2; or b by patterns of their paths, such as
    ``{"layer4.*": 3, "stem.*": "full", "*": 2}``: the first that matches (`fnmatch.fnmatchcase`) decides, and "full"
    keeps the ReLU; levels: the same with the highest level, any n, instead of bits; output: "analog", or the bits
    (or `qffs.method.Levels`) of a quantizer at the network's output, which then is spiking too; example: a batch of
    the shape and type the network takes (a tuple for several inputs); per_channel: a step size for each channel
    (dimension 1 of an activation) instead of one for all; offset: ``floor(x / s + offset)`` in the quantizer, and the
    neuron's pre-charge in thresholds; see `OFFSET` for the default; strict: refuse a network that has to send values
    instead of spikes somewhere (after GELU, softmax, a product of two signals, "full"), which by default it does:
    differenced, and exact.

    Returned: a plain `nn.Module` with the model's state-dict keys plus one ``step_size`` a quantizer. Train it
    with any loop. It refuses to run in eval mode before it was calibrated (`qffs.calibrate`), trained or loaded.
    ``model`` is not touched. Raises `InvalidArgument` on bad bits or patterns, `NotTraceable` and `NotConvertible`
    (listing every operator that has no spiking counterpart) and `NothingToQuantize` where no ReLU is to be quantized.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x])
    >>> snn = qffs.to_spiking(qann.eval())
    >>> snn(x, steps=8).shape
    torch.Size([8, 16, 2])
    """
    patterns, of_output = by_pattern(bits, levels), _output_levels(output)
    if strict and None in patterns.values():
        raise InvalidArgument('strict=True refuses "full": an activation in full precision sends values, not spikes')
    _refuse_converted(model)
    traced = trace(model, example)
    planning.plan(traced).check(strict)
    hidden = resolve(patterns, activations(traced))
    if of_output is None and not any(hidden.values()):
        raise NothingToQuantize('nothing would be quantized: every activation is to stay "full"')
    place_quantizers(traced, hidden, of_output, offset, per_channel)
    traced.recompile()
    inputs = example if isinstance(example, tuple) else (example,)  # a network may have no weights
    reference = next((x for x in (*model.parameters(), *inputs) if x.is_floating_point()), None)
    if reference is not None:
        for module in traced.modules():
            if isinstance(module, Quantizer | FullPrecision):
                module.to(device=reference.device, dtype=reference.dtype).train(traced.training)
    return traced


def _output_levels(output: int | str | Levels) -> Levels | None:
    if isinstance(output, Levels):
        return output
    if isinstance(output, str) and output != "analog":
        raise InvalidArgument(f'output must be "analog", a number of bits from 1 to 8, or Levels, not {output!r}')
    return None if isinstance(output, str) else Levels.from_bits(output)


def to_spiking(
    qann: nn.Module, charge_steps: int | Sequence[float] | None = None, rule: FiringRule | None = None
) -> SpikingNetwork:
    """The spiking network of a quantized network: every quantizer a layer of neurons with θ = s and the same n.

    charge_steps: over how many steps D the input and the biases are charged, or their weights by step, which add
    up to 1; by default 2^b - 1 of the hidden layers, as in the paper. rule: what a neuron may do (`FiringRule`).
    Batch norm is folded into weights; ``qann`` is not touched. Raises `NotCalibrated` where a step size is not
    set, `InvalidArgument` where ``qann`` was not made by `quantize` or the charge steps are impossible.
    """
    if not isinstance(qann, fx.GraphModule) or not quantizers(qann):
        raise InvalidArgument("to_spiking takes the network that qffs.quantize returned")
    if rule is not None and not isinstance(rule, FiringRule):
        raise InvalidArgument(f"the firing rule must be a qffs.FiringRule, not {rule!r}")
    unset = [path for path, quantizer in quantizers(qann).items() if not quantizer.ready]
    if unset:
        raise NotCalibrated(
            f"{len(unset)} step sizes are not set, the first at {unset[0]}: run qffs.calibrate(qann, batches), "
            "train the network, or load trained weights first"
        )
    broken = [name for name, weight in qann.named_parameters() if not bool(torch.isfinite(weight).all())]
    broken += [name for name, buffer in qann.named_buffers() if bool(torch.isnan(buffer).any())]  # a mask may be -inf
    if broken:
        raise Diverged(
            f"the weights hold NaN or infinity, first in {broken[0]}: train again, or load the last good ones"
        )
    if not all(map(has_site, qann.graph.nodes)):
        raise InvalidArgument(
            "this quantized network has lost the shapes of its example, as pickled graphs do: keep it with qffs.save, "
            "or load its state dict into a new qffs.quantize(...)"
        )
    schedule = Schedule.of(_hidden_levels(qann) if charge_steps is None else charge_steps)
    network = copy.deepcopy(qann).eval().requires_grad_(False)
    write_sites(classify(network))
    fold(network)
    swap_neurons(network, rule or FiringRule())
    network.recompile()
    return SpikingNetwork(network, schedule)


def _refuse_converted(model: nn.Module) -> None:
    if isinstance(model, SpikingNetwork):
        raise InvalidArgument("this is a spiking network already")
    if isinstance(model, nn.Module) and quantizers(model):
        raise InvalidArgument("this network is quantized already")


def _hidden_levels(qann: fx.GraphModule) -> int:
    """The highest level of the hidden layers; of the output where there is nothing else."""
    outputs = output_quantizers(qann)
    hidden = [quantizer.highest for path, quantizer in quantizers(qann).items() if path not in outputs]
    return max(hidden or [quantizer.highest for quantizer in quantizers(qann).values()])


@torch.no_grad()
def calibrate(qann: nn.Module, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> nn.Module:
    """Set every step size of ``qann`` from a few batches, in place, and return ``qann``.

    Each becomes LSQ's first step size, ``2 * mean(abs(x)) / sqrt(n)``, over the activations x that reach the
    quantizer (or its channel, where each has a step size of its own) in all batches so far, in eval mode. While a
    batch runs, the quantizers before are already in force, so later layers see what they will see in use. batches:
    input tensors ``[B, ...]``, or tuples of inputs.
    Raises `InvalidArgument` without a quantizer or a batch, or where a batch is not the inputs; `Diverged` where NaN or
    infinity arrives. After an error all step sizes are what they were.
    """
    of_all = list(quantizers(qann).values())
    if not of_all:
        raise InvalidArgument("there is nothing to calibrate: the network has no quantizer; call qffs.quantize first")
    if isinstance(batches, Tensor):
        raise InvalidArgument("calibration takes several batches: give a list, even of one, such as [x]")
    sums = {quantizer: (torch.zeros((), dtype=torch.float64), 0) for quantizer in of_all}
    hooks = [quantizer.register_forward_pre_hook(partial(_observe, sums)) for quantizer in of_all]
    before = {quantizer: quantizer.step_size.detach().clone() for quantizer in of_all}
    try:
        with evaluating(qann):
            for batch in batches:
                _run(qann, batch)
    except BaseException:
        for quantizer, step_size in before.items():
            quantizer.step_size.copy_(step_size)
            quantizer.forget()
        raise
    finally:
        for hook in hooks:
            hook.remove()
    if not all(count for _, count in sums.values()):
        raise InvalidArgument("calibration needs at least one batch of images")
    return qann


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


def _observe(sums: dict[Quantizer, tuple[Tensor, int]], quantizer: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(quantizer, Quantizer)
    x, step_size = arguments[0], quantizer.step_size
    magnitude, count = sums[quantizer]
    magnitude = magnitude + lsq.total(x.abs(), step_size, torch.float64).cpu()
    count += x.numel() // step_size.numel()
    sums[quantizer] = magnitude, count
    quantizer.set_step_size_from(magnitude / count)
