"""The conversion: plan, quantize and calibrate a network, and make a spiking network of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from qffs.errors import Diverged, InvalidArgument, NotCalibrated, NotConvertible, NothingToQuantize
from qffs.graph import plan as planning
from qffs.graph.fold import fold
from qffs.graph.replace import (
    activations,
    classify_again,
    output_quantizers,
    place_quantizers,
    refuse_lost,
    refuse_without_sites,
    swap_neurons,
)
from qffs.graph.trace.trace import Example, refuse_additions, trace
from qffs.method import Choice, FiringRule, Levels, Schedule, by_pattern, resolve
from qffs.nn.copies import copied, make_weights_plain
from qffs.nn.inspect import check_finite, quantizers, refuse_types
from qffs.nn.quantizer import OFFSET, FullPrecision, Quantizer
from qffs.spiking.network import SpikingNetwork


def plan(model: nn.Module, example: Example) -> planning.Plan:
    """Return what every call of ``model`` would become in the spiking network, without changing the model.

    model: the network; example: a batch of inputs, or a tuple of batches for several inputs.

    Returns a `Plan`, which `print` shows as a table. Raises `NotTraceable` where the model cannot be read as a graph,
    `NotConvertible` where it has hooks or spikes already, and `InvalidArgument` where it does not run on the example or
    is converted already. Operators without a spiking counterpart raise nothing here: they are rows of the plan.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(qffs.plan(model, torch.ones(1, 4)).summary())
    1 layer of neurons, 1 input, 2 linear, 1 output, nothing refused
    """
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
    """Return a quantized copy of ``model`` (a QANN): an LSQ quantizer in the place of every ReLU, all else unchanged.

    - ``model``: the network, trained or not.
    - ``bits``: b of the hidden activations, with levels 0 to 2^b - 1; by default 2. Or b by patterns of their paths,
      such as ``{"layer4.*": 3, "stem.*": "full", "*": 2}``: the first pattern that matches (`fnmatch.fnmatchcase`)
      decides, and "full" keeps the ReLU.
    - ``output``: "analog" for outputs that stay numbers, or the bits (or `Levels`) of a quantizer at every output. It
      becomes neurons too.
    - ``example``: a batch of the shape and type that the network takes, or a tuple of batches for several inputs.
    - ``levels``: as ``bits``, but with the highest level n, any whole number from 1. Give bits or levels.
    - ``per_channel``: one step size for each channel (dimension 1 of an activation) instead of one for all.
    - ``offset``: the rounding offset in ``floor(x / s + offset)``, and the pre-charge of the neurons in thresholds; see
      `qffs.nn.quantizer.OFFSET` for the default.
    - ``strict``: refuse a network in which an operator sends values instead of spikes (GELU, softmax, a product of two
      signals, "full"). By default such operators are differenced, and the spiking network is exact.

    Returns a plain `nn.Module` with the state-dict keys of the model and one ``step_size`` for each quantizer. Train it
    with any loop. In eval mode it raises `NotCalibrated` before it is calibrated (`qffs.calibrate`), trained or loaded.
    ``model`` is not changed.

    Raises `InvalidArgument` on impossible bits, patterns or examples, and on weights that are sparse, without values,
    or of a type without a rule; `NotTraceable` where the model cannot be read as a graph; `NotConvertible`, which lists
    every operator without a spiking counterpart; `NothingToQuantize` where no ReLU is to be quantized; `Diverged` where
    a weight is NaN or infinite.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x])
    >>> snn = qffs.to_spiking(qann.eval())
    >>> snn(x, steps=8).shape
    torch.Size([8, 16, 2])
    """
    patterns, output_levels = by_pattern(bits, levels), _output_levels(output)
    if strict and None in patterns.values():
        raise InvalidArgument('strict=True refuses "full": an activation in full precision sends values, not spikes')
    _refuse_converted(model)
    traced = trace(model, example)
    planning.plan(traced).check(strict)
    check_finite(traced)
    hidden = resolve(patterns, activations(traced))
    if output_levels is None and not any(hidden.values()):
        raise NothingToQuantize('nothing would be quantized: every activation is to stay "full"')
    place_quantizers(traced, hidden, output_levels, offset, per_channel)
    traced.recompile()
    _as_others(traced, model, example if isinstance(example, tuple) else (example,))
    return traced


def _as_others(traced: fx.GraphModule, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Give the new modules the device, type and mode of the others; those of inputs, where a network has no weights.

    A weight without dimensions has no say: PyTorch computes in the type of what it meets.
    """
    reference = next((x for x in (*model.parameters(), *inputs) if x.is_floating_point() and x.dim()), None)
    if reference is not None:
        for module in traced.modules():
            if isinstance(module, Quantizer | FullPrecision):
                module.to(device=reference.device, dtype=reference.dtype).train(traced.training)


def _output_levels(output: int | str | Levels) -> Levels | None:
    if isinstance(output, Levels):
        return output
    if isinstance(output, str) and output != "analog":
        raise InvalidArgument(f'output must be "analog", a number of bits from 1 to 8, or Levels, not {output!r}')
    return None if isinstance(output, str) else Levels.from_bits(output)


def to_spiking(
    qann: nn.Module, charge_steps: int | Sequence[float] | None = None, rule: FiringRule | None = None
) -> SpikingNetwork:
    """Return the spiking network of a quantized network: every quantizer becomes neurons with θ = s and the same n.

    qann: the network that `qffs.quantize` returned, calibrated or trained; charge_steps: the number of steps D over
    which the input and the biases are charged, or the charge weight of each step, which add up to 1; by default D = n
    of the hidden layers, as in the paper; rule: the firing rule, by default `FiringRule()`, with which the network is
    exact.

    Returns a `SpikingNetwork` in eval mode. Batch norm is folded into the weights of the copy, and weights that are
    computed from others (parametrized or pruned) are the values that they have now; ``qann`` is not changed.

    Raises `NotCalibrated` where a step size is not set; `Diverged` where a weight is NaN or infinite, or a step size is
    not above 0; `NotConvertible` where a layer was replaced by what has no spiking counterpart, or has forward hooks;
    `InvalidArgument` where `quantize` did not make ``qann``, or the charge steps or the rule are impossible.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(16, 4)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x])
    >>> snn = qffs.to_spiking(qann, charge_steps=4)
    >>> snn(x, steps=8).shape                              # the output after each of 8 steps
    torch.Size([8, 16, 2])
    """
    if not isinstance(qann, fx.GraphModule) or not quantizers(qann):
        raise InvalidArgument("to_spiking takes the network that qffs.quantize returned")
    if rule is not None and not isinstance(rule, FiringRule):
        raise InvalidArgument(f"the firing rule must be a qffs.FiringRule, not {rule!r}")
    _refuse_unfinished(qann)
    schedule = Schedule.of(_hidden_levels(qann) if charge_steps is None else charge_steps)
    network = copied(qann).eval().requires_grad_(False)
    make_weights_plain(network)
    refuse_additions(network, backward=False)
    classify_again(network)
    planning.plan(network).check()
    fold(network)
    swap_neurons(network, rule or FiringRule())
    check_finite(network)  # the product of a weight and a factor of batch norm can be infinite
    network.recompile()
    return SpikingNetwork(network, schedule)


def _refuse_converted(model: nn.Module) -> None:
    if isinstance(model, SpikingNetwork):
        raise InvalidArgument("this is a spiking network already")
    if isinstance(model, nn.Module) and quantizers(model):
        raise InvalidArgument("this network is quantized already")


def _refuse_unfinished(qann: fx.GraphModule) -> None:
    """Raise unless every step size is set and above 0, every weight is finite, and nothing would be lost in a copy."""
    added = ["a forward of its own, put on the instance"] if "forward" in vars(qann) else []
    if qann._forward_hooks or qann._forward_pre_hooks:
        added.append("forward hooks")
    if added:
        raise NotConvertible(
            f"the quantized network has {' and '.join(added)}, which its graph does not hold: remove what was added, "
            "or write it into the model and quantize that"
        )
    refuse_types(qann, [])
    check_finite(qann)
    unset = [path for path, quantizer in quantizers(qann).items() if not quantizer.ready]
    if unset:
        raise NotCalibrated(
            f"{len(unset)} step sizes are not set, the first at {unset[0]}: run qffs.calibrate(qann, batches), "
            "train the network, or load trained weights first"
        )
    silent = [(path, s) for path, q in quantizers(qann).items() if not (s := float(q.step_size.detach().min())) > 0]
    if silent:
        raise Diverged(
            f"the step size at {silent[0][0]} is {silent[0][1]:g}, where it must be above 0: run "
            "qffs.calibrate(qann, batches) again, or train with a lower learning rate"
        )
    refuse_without_sites(qann)
    refuse_lost(qann)


def _hidden_levels(qann: fx.GraphModule) -> int:
    """Return the highest level of the hidden layers, or of the output where no other layer has levels."""
    outputs = output_quantizers(qann)
    hidden = [quantizer.highest for path, quantizer in quantizers(qann).items() if path not in outputs]
    return max(hidden or [quantizer.highest for quantizer in quantizers(qann).values()])
