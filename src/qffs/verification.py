"""The check, neuron by neuron, that a spiking network computes the same as its quantized network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument, Mismatch, QffsError
from qffs.functional import lsq
from qffs.functional.neuron import NeuronState
from qffs.graph.nested import tensors
from qffs.nn.inspect import empty_like, evaluating, quantizers, without_autocast
from qffs.nn.quantizer import Quantizer
from qffs.spiking.inputs import check_inputs
from qffs.spiking.network import SpikingNetwork

TOLERANCE = 1000.0
"""The largest difference of outputs, in units in the last place of the largest output up to any step.

Outputs differ by rounding: they are sums of the same numbers in another order.
"""

TIE_TOLERANCE = 16.0
"""The largest distance from a tie at which rounding may decide a unit, in units in the last place.

They are those of the position ``x / s + offset`` that is largest in the layer for the same image, since positions are
differences of numbers of about that size.
"""

FARTHEST = 1 / 16
"""The largest distance from a tie, in levels, at which a unit may be called a tie, however large the positions are.

Where one activation is huge, rounding could explain any difference, and a comparison would prove nothing.
"""


@dataclass(frozen=True)
class Comparison:
    """The result of `verify`: the layers that it compared, all of them equal. `print` shows it as a sentence.

    layers: path and number of units of each layer, in order; images, steps: the size of the run; settled: the number of
    steps after which no neuron sent a spike any more; deviation: the largest absolute difference of the outputs, within
    `TOLERANCE` of their size; ties: the number of units at a tie between two levels, which rounding decided otherwise
    in the two networks.
    """

    layers: tuple[tuple[str, int], ...]
    images: int
    steps: int
    settled: int
    deviation: float
    ties: int = 0

    def __str__(self) -> str:
        neurons = sum(units for _, units in self.layers)
        but = f" but for {self.ties:,} at a tie, which rounding decides" if self.ties else ""
        return (
            f"the spike counts of all {neurons:,} neurons of {len(self.layers)} layers, over {self.images} images, are "
            f"their quantizers' levels{but}, settled after {self.settled} of {self.steps} steps; the outputs differ by "
            f"at most {self.deviation:.1g}"
        )


@without_autocast()
def verify(
    qann: nn.Module,
    snn: SpikingNetwork,
    *inputs: Any,
    steps: int | None = None,
    tie_tolerance: float = TIE_TOLERANCE,
) -> Comparison:
    """Compare every neuron's count with its quantizer's level after ``steps`` steps; raise at the first difference.

    qann: the network that `qffs.quantize` returned; snn: the network that `qffs.to_spiking` made of it; inputs: a batch
    of inputs, as tensors or as one tuple of tensors; steps: T, by default as many steps as the network needs to settle;
    tie_tolerance: the largest distance from a tie at which rounding may decide a unit, as `TIE_TOLERANCE` defines it;
    0: every count must be the level.

    The two networks are equal in exact arithmetic. In floating point, rounding decides a sum that ends nearly on a tie
    between two levels, and may decide differently on both sides. Such units are counted in ``ties``; the layers behind
    them are compared with what the quantized network computes from the spiking network's counts. In float64
    (``qann.double()``, ``snn.double()``) ties are so rare that ``tie_tolerance=0`` is a proof for these inputs.

    Returns a `Comparison`. Raises `Mismatch`, which names the first layer that differs, by how much, and on how many of
    its units; `InvalidArgument` on other arguments, and where the networks do not run on the inputs; `NotCalibrated`
    where a step size is not set.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
    >>> x = torch.randn(16, 4, dtype=torch.float64)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x]).eval()
    >>> comparison = qffs.verify(qann, qffs.to_spiking(qann), x)
    >>> comparison.layers, comparison.images, comparison.ties
    ((('1', 128),), 16, 0)
    """
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = inputs[0]
    if isinstance(tie_tolerance, bool) or not isinstance(tie_tolerance, int | float) or not 0 <= tie_tolerance < inf:
        raise InvalidArgument(f"tie_tolerance must be a number of at least 0, not {tie_tolerance!r}")
    whole = bool(inputs) and all(isinstance(x, Tensor) and x.numel() for x in inputs)
    if not isinstance(snn, SpikingNetwork) or not isinstance(qann, nn.Module) or not whole:
        raise InvalidArgument(
            "verify takes a quantized network, its spiking network, and a batch of inputs, in this order"
        )
    check_inputs(snn.operations, inputs)
    expected, levels = levels_of(qann, *inputs)
    fired: dict[str, list[Tensor]] = {}
    readout, state = snn.run(*inputs, steps=steps, observer=partial(_record_activity, fired))
    counts = {path: state.neurons[path].sent for path, _ in snn.neurons()}
    layers = tuple((path, _units(path, counts[path], levels)) for path in counts)
    ties: dict[str, int] = {}
    if any(not torch.equal(counts[path], levels[path]) for path in counts):
        expected = _hooked(qann, inputs, partial(_follow, counts, tie_tolerance, ties))
    active = torch.stack([torch.cat(each) for each in fired.values()]).any(0).nonzero()
    outputs = zip(tensors(readout), tensors(expected), strict=True)
    eps = torch.finfo(empty_like(qann).dtype).eps
    differences = [_equal_output(output, value, eps) for output, value in outputs]
    return Comparison(
        layers,
        inputs[0].shape[0],
        len(tensors(readout)[0]),
        int(active.max()) + 1 if len(active) else 0,
        max(differences),
        sum(ties.values()),
    )


def levels_of(qann: nn.Module, *inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return the output of a quantized network, and the levels of its quantizers by their paths.

    Raises `InvalidArgument` where the network does not run on these inputs.
    """
    levels: dict[str, Tensor] = {}
    return _hooked(qann, inputs, partial(_record_level, levels)), levels


@torch.no_grad()
def _hooked(qann: nn.Module, inputs: tuple[Tensor, ...], hook: Callable[..., Any]) -> Any:
    """Return the output of a quantized network in eval mode, with a hook ``(path, quantizer, inputs, output)``."""
    hooks = [each.register_forward_hook(partial(hook, path)) for path, each in quantizers(qann).items()]
    try:
        with evaluating(qann):
            return qann(*inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        raise InvalidArgument(f"the quantized network does not run on these inputs: {error}") from error
    finally:
        for each in hooks:
            each.remove()


def _record_level(
    levels: dict[str, Tensor], path: str, quantizer: Quantizer, arguments: tuple[Any, ...], _: Tensor
) -> None:
    levels[path] = quantizer.level(arguments[0])


def _follow(
    counts: dict[str, Tensor],
    tolerance: float,
    ties: dict[str, int],
    path: str,
    quantizer: Quantizer,
    arguments: tuple[Any, ...],
    output: Tensor,
) -> Tensor:
    """Return what the neurons sent, in the place of a quantizer's output, so that later layers read the same.

    Units that rounding decided are counted in ``ties``; raises `Mismatch` for others that differ.
    """
    position = lsq.position(arguments[0], quantizer.step_size, quantizer.offset)
    level, sent = quantizer.level(arguments[0]), counts[path]
    tie = torch.maximum(level, sent)  # which the position was rounded to on one side, and not on the other
    largest = position.abs().reshape(len(position), -1).amax(1).clamp_min(1.0)  # of each image
    rounding = (tolerance * torch.finfo(position.dtype).eps * largest).clamp_max(FARTHEST)
    near = (position - tie).abs() < rounding.view(-1, *(1,) * (position.dim() - 1))
    difference = (sent - level).abs()
    wrong = difference.where(~((difference == 1) & near), 0)
    if bool(wrong.any()):
        raise Mismatch(
            f"the first layer that differs is {path}: the spike count is not the quantizer's level on "
            f"{int(wrong.count_nonzero())} of {wrong.numel()} units, by {int(wrong.max())} at most"
            + ("" if position.dtype == torch.float64 else "; to rule out rounding, compare qann.double(), snn.double()")
        )
    ties[path] = int(difference.count_nonzero())
    return (sent * lsq.along_channels(quantizer.step_size, sent.shape)).to(output.dtype)


def _record_activity(fired: dict[str, list[Tensor]], path: str, spikes: Tensor, _: NeuronState) -> None:
    fired.setdefault(path, []).append(spikes.flatten(1).any(1))


def _units(path: str, count: Tensor, levels: dict[str, Tensor]) -> int:
    """Return the number of units of a layer; raise `Mismatch` where the quantized network has others."""
    if path not in levels:
        raise Mismatch(f"the spiking network has neurons at {path}, where the quantized network has no quantizer")
    if count.shape != levels[path].shape:
        raise Mismatch(f"{path} has other shapes in the two networks: the spiking network was made from another one")
    return count.numel()


def _equal_output(readout: Tensor, expected: Tensor, eps: float) -> float:
    """Return the largest absolute difference of an output; raise `Mismatch` where it is larger than rounding.

    readout: ``[T, B, ...]``, whose largest value at any step is the size of what was added up; eps: the rounding of the
    network's own type, which an output that is cast to a higher type has too.
    """
    after = readout[-1]
    apart = torch.where(after == expected, 0.0, (after - expected).abs())  # 0 also where both are -inf
    difference, finite = float(apart.max()), readout[readout.isfinite()].abs()
    size = float(finite.max()) if len(finite) else 0.0
    if not difference <= TOLERANCE * max(eps, torch.finfo(expected.dtype).eps) * size:
        raise Mismatch(f"every neuron's count is its quantizer's level, but the output differs by {difference:.3g}")
    return difference
