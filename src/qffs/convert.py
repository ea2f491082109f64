"""The verbs: a network becomes a quantised network, that becomes a spiking network, and the two are compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from qffs.errors import Diverged, InvalidArgument, Mismatch, NotCalibrated, NothingToQuantize, QffsError
from qffs.functional.lsq import NEAREST
from qffs.functional.neuron import NeuronState
from qffs.graph import plan as planning
from qffs.graph.classify import annotate
from qffs.graph.fold import fold
from qffs.graph.nested import tensors
from qffs.graph.replace import activations, output_quantizers, place_quantizers
from qffs.graph.swap import swap_neurons
from qffs.graph.trace.trace import Example, trace
from qffs.method import Choice, FiringRule, Levels, Schedule, by_pattern
from qffs.nn.full_precision import FullPrecision
from qffs.nn.modes import evaluating
from qffs.nn.quantizer import Quantizer
from qffs.precision import resolve
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.state import State

OFFSET = NEAREST + 1e-4
"""The rounding offset of quantisers and pre-charge of neurons: to nearest, with the ties moved off their lattice.

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
    """A quantised copy of ``model`` (a QANN): an LSQ quantiser at every ReLU, everything else as it was.

    bits: b of the hidden activations, levels 0..2^b - 1, by default 2; or b by patterns of their paths, such as
    ``{"layer4.*": 3, "stem.*": "full", "*": 2}``: the first that matches (`fnmatch.fnmatchcase`) decides, and "full"
    keeps the ReLU; levels: the same with the highest level, any n, instead of bits; output: "analog", or the bits
    (or `qffs.method.Levels`) of a quantiser at the network's output, which then is spiking too; example: a batch of
    the shape and type the network takes (a tuple for several inputs); per_channel: a step size for each channel
    (dimension 1 of an activation) instead of one for all; offset: ``floor(x / s + offset)`` in the quantiser, and the
    neuron's pre-charge in thresholds; see `OFFSET` for the default; strict: refuse a network that has to send values
    instead of spikes somewhere (after GELU, softmax, a product of two signals, "full"), which by default it does:
    differenced, and exact.

    Returned: a plain `nn.Module` with the model's state-dict keys plus one ``step_size`` a quantiser. Train it
    with any loop. It refuses to run in eval mode before it was calibrated (`qffs.calibrate`), trained or loaded.
    ``model`` is not touched. Raises `InvalidArgument` on bad bits or patterns, `NotTraceable` and `NotConvertible`
    (listing every operator that has no spiking counterpart) and `NothingToQuantize` where no ReLU is to be quantised.

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
        raise NothingToQuantize('nothing would be quantised: every activation is to stay "full"')
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
    """The spiking network of a quantised network: every quantiser a layer of neurons with θ = s and the same n.

    charge_steps: over how many steps D the input and the biases are charged, or their weights by step, which add
    up to 1; by default 2^b - 1 of the hidden layers, as in the paper. rule: what a neuron may do (`FiringRule`).
    Batch norm is folded into weights; ``qann`` is not touched. Raises `NotCalibrated` where a step size is not
    set, `InvalidArgument` where ``qann`` was not made by `quantize` or the charge steps are impossible.
    """
    if not isinstance(qann, fx.GraphModule) or not _quantizers(qann):
        raise InvalidArgument("to_spiking takes the network that qffs.quantize returned")
    if rule is not None and not isinstance(rule, FiringRule):
        raise InvalidArgument(f"the firing rule must be a qffs.FiringRule, not {rule!r}")
    unset = [path for path, quantizer in _quantizers(qann).items() if not quantizer.ready]
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
    if any("shape" not in node.meta for node in qann.graph.nodes):
        raise InvalidArgument(
            "this quantised network has lost the shapes of its example, as pickled graphs do: keep it with qffs.save, "
            "or load its state dict into a new qffs.quantize(...)"
        )
    schedule = Schedule.of(_hidden_levels(qann) if charge_steps is None else charge_steps)
    network = copy.deepcopy(qann).eval().requires_grad_(False)
    annotate(network)
    fold(network)
    swap_neurons(network, rule or FiringRule())
    network.recompile()
    return SpikingNetwork(network, schedule)


def _refuse_converted(model: nn.Module) -> None:
    if isinstance(model, SpikingNetwork):
        raise InvalidArgument("this is a spiking network already")
    if isinstance(model, nn.Module) and _quantizers(model):
        raise InvalidArgument("this network is quantised already")


def _quantizers(qann: nn.Module) -> dict[str, Quantizer]:
    return {path: module for path, module in qann.named_modules() if isinstance(module, Quantizer)}


def _hidden_levels(qann: fx.GraphModule) -> int:
    """The highest level of the hidden layers; of the output where there is nothing else."""
    outputs = output_quantizers(qann)
    hidden = [quantizer.highest for path, quantizer in _quantizers(qann).items() if path not in outputs]
    return max(hidden or [quantizer.highest for quantizer in _quantizers(qann).values()])


TOLERANCE = 1000.0
"""How far outputs may differ where every count is equal, in units of the type's precision times the largest output.

Counts are compared exactly; outputs are sums of the same numbers in another order.
"""


@dataclass(frozen=True)
class Comparison:
    """What `verify` compared, all of it equal: ``layers`` (path, units) in order, over ``images`` and ``steps``.

    ``settled``: the first step after which no neuron sent a spike any more; ``deviation``: the largest absolute
    difference of the outputs, which is within `TOLERANCE` of their size.
    """

    layers: tuple[tuple[str, int], ...]
    images: int
    steps: int
    settled: int
    deviation: float

    def __str__(self) -> str:
        neurons = sum(units for _, units in self.layers)
        return (
            f"the spike counts of all {neurons:,} neurons of {len(self.layers)} layers, over {self.images} images, are "
            f"their quantisers' levels, settled after {self.settled} of {self.steps} steps; the outputs differ by at "
            f"most {self.deviation:.1g}"
        )


def verify(qann: nn.Module, snn: SpikingNetwork, *inputs: Any, steps: int | None = None) -> Comparison:
    """Compare every neuron's count with its quantiser's level after ``steps`` steps; raise at the first difference.

    inputs: the network's, as tensors or, as for an example, one tuple of them; steps: by default, as many as it takes
    until no neuron fires any more. The two are equal in exact arithmetic; in floating point a sum that ends within
    rounding of a tie may fall either way, so compare float64 copies (``qann.double()``, ``snn.double()``) where
    exactness is the question.
    Returned: what was compared. Raises `Mismatch`, naming the first layer that differs, by how much, on how many
    of its units.
    """
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = inputs[0]
    whole = bool(inputs) and all(isinstance(x, Tensor) and x.numel() for x in inputs)
    if not isinstance(snn, SpikingNetwork) or not isinstance(qann, nn.Module) or not whole:
        raise InvalidArgument(
            "verify takes a quantised network, its spiking network, and a batch of inputs, in this order"
        )
    expected, levels = levels_of(qann, *inputs)
    fired: dict[str, list[Tensor]] = {}
    readout, state = snn.run(*inputs, steps=steps, observer=partial(_record_activity, fired))
    layers = tuple((path, _equal_units(path, state, levels)) for path, _ in snn.neurons())
    active = torch.stack([torch.cat(each) for each in fired.values()]).any(0).nonzero()
    differences = [
        _equal_output(after[-1], value) for after, value in zip(tensors(readout), tensors(expected), strict=True)
    ]
    return Comparison(
        layers,
        inputs[0].shape[0],
        len(tensors(readout)[0]),
        int(active.max()) + 1 if len(active) else 0,
        max(differences),
    )


@torch.no_grad()
def levels_of(qann: nn.Module, *inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """What a quantised network returns, and the level of every unit of its quantisers, by their paths.

    Raises `InvalidArgument` where it does not run on these inputs.
    """
    levels: dict[str, Tensor] = {}
    quantizers = _quantizers(qann)
    hooks = [q.register_forward_pre_hook(partial(_record_level, levels, path)) for path, q in quantizers.items()]
    try:
        with evaluating(qann):
            return qann(*inputs), levels
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        raise InvalidArgument(f"the quantised network does not run on these inputs: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _record_level(levels: dict[str, Tensor], path: str, quantizer: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(quantizer, Quantizer)
    levels[path] = quantizer.level(arguments[0])


def _record_activity(fired: dict[str, list[Tensor]], path: str, spikes: Tensor, _: NeuronState) -> None:
    fired.setdefault(path, []).append(spikes.flatten(1).any(1))


def _equal_units(path: str, state: State, levels: dict[str, Tensor]) -> int:
    """The number of units of a layer, all of which agree; raises `Mismatch` where one does not."""
    if path not in levels:
        raise Mismatch(f"the spiking network has neurons at {path}, where the quantised network has no quantiser")
    after = state.neurons[path]
    if after.sent.shape != levels[path].shape:
        raise Mismatch(f"{path} has other shapes in the two networks: the spiking network was made from another one")
    difference = (after.sent - levels[path]).abs()
    wrong = int(difference.count_nonzero())
    if wrong:
        raise Mismatch(
            f"the first layer that differs is {path}: the spike count is not the quantiser's level on {wrong} of "
            f"{difference.numel()} units, by {int(difference.max())} at most"
        )
    return difference.numel()


def _equal_output(after: Tensor, expected: Tensor) -> float:
    """The largest absolute difference of an output; raises `Mismatch` where rounding does not explain it."""
    apart = torch.where(after == expected, 0.0, (after - expected).abs())  # 0 also where both are -inf
    difference = float(apart.max())
    if not difference <= TOLERANCE * torch.finfo(expected.dtype).eps * max(1.0, float(expected.abs().max())):
        raise Mismatch(f"every neuron's count is its quantiser's level, but the output differs by {difference:.3g}")
    return difference
