"""The check, neuron by neuron, that a spiking network computes the same as its quantized network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qffs.errors import InvalidArgument, Mismatch, QffsError
from qffs.functional.neuron import NeuronState
from qffs.graph.nested import tensors
from qffs.nn.inspect import evaluating, quantizers
from qffs.nn.quantizer import Quantizer
from qffs.spiking.network import SpikingNetwork
from qffs.spiking.step_by_step import State

TOLERANCE = 1000.0
"""The largest difference of outputs, in units of the type's precision times the largest output.

Counts are compared exactly. Outputs differ by rounding: they are sums of the same numbers in another order.
"""


@dataclass(frozen=True)
class Comparison:
    """The result of `verify`: the layers that it compared, all of them equal. `print` shows it as a sentence.

    layers: path and number of units of each layer, in order; images, steps: the size of the run; settled: the number of
    steps after which no neuron sent a spike any more; deviation: the largest absolute difference of the outputs, within
    `TOLERANCE` of their size.
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
            f"their quantizers' levels, settled after {self.settled} of {self.steps} steps; the outputs differ by at "
            f"most {self.deviation:.1g}"
        )


def verify(qann: nn.Module, snn: SpikingNetwork, *inputs: Any, steps: int | None = None) -> Comparison:
    """Compare every neuron's count with its quantizer's level after ``steps`` steps; raise at the first difference.

    qann: the network that `qffs.quantize` returned; snn: the network that `qffs.to_spiking` made of it; inputs: a batch
    of inputs, as tensors or as one tuple of tensors; steps: T, by default as many steps as the network needs to settle.

    The two networks are equal in exact arithmetic. In floating point, rounding decides a sum that ends nearly on a tie
    between two levels, and may decide differently on both sides: to prove exactness, compare float64 copies
    (``qann.double()``, ``snn.double()``).

    Returns a `Comparison`. Raises `Mismatch`, which names the first layer that differs, by how much, and on how many of
    its units; `InvalidArgument` on other arguments, and where the networks do not run on the inputs; `NotCalibrated`
    where a step size is not set.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
    >>> x = torch.randn(16, 4, dtype=torch.float64)
    >>> qann = qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x]).eval()
    >>> comparison = qffs.verify(qann, qffs.to_spiking(qann), x)
    >>> comparison.layers, comparison.images
    ((('1', 128),), 16)
    """
    if len(inputs) == 1 and isinstance(inputs[0], tuple):
        inputs = inputs[0]
    whole = bool(inputs) and all(isinstance(x, Tensor) and x.numel() for x in inputs)
    if not isinstance(snn, SpikingNetwork) or not isinstance(qann, nn.Module) or not whole:
        raise InvalidArgument(
            "verify takes a quantized network, its spiking network, and a batch of inputs, in this order"
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
    """Return the output of a quantized network, and the levels of its quantizers by their paths.

    Raises `InvalidArgument` where the network does not run on these inputs.
    """
    levels: dict[str, Tensor] = {}
    hooks = [q.register_forward_pre_hook(partial(_record_level, levels, path)) for path, q in quantizers(qann).items()]
    try:
        with evaluating(qann):
            return qann(*inputs), levels
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, QffsError):
            raise
        raise InvalidArgument(f"the quantized network does not run on these inputs: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()


def _record_level(levels: dict[str, Tensor], path: str, quantizer: nn.Module, arguments: tuple[Any, ...]) -> None:
    assert isinstance(quantizer, Quantizer)
    levels[path] = quantizer.level(arguments[0])


def _record_activity(fired: dict[str, list[Tensor]], path: str, spikes: Tensor, _: NeuronState) -> None:
    fired.setdefault(path, []).append(spikes.flatten(1).any(1))


def _equal_units(path: str, state: State, levels: dict[str, Tensor]) -> int:
    """Return the number of units of a layer; raise `Mismatch` unless the count of each is its level."""
    if path not in levels:
        raise Mismatch(f"the spiking network has neurons at {path}, where the quantized network has no quantizer")
    after = state.neurons[path]
    if after.sent.shape != levels[path].shape:
        raise Mismatch(f"{path} has other shapes in the two networks: the spiking network was made from another one")
    difference = (after.sent - levels[path]).abs()
    wrong = int(difference.count_nonzero())
    if wrong:
        raise Mismatch(
            f"the first layer that differs is {path}: the spike count is not the quantizer's level on {wrong} of "
            f"{difference.numel()} units, by {int(difference.max())} at most"
        )
    return difference.numel()


def _equal_output(after: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference of an output; raise `Mismatch` where it is larger than rounding."""
    apart = torch.where(after == expected, 0.0, (after - expected).abs())  # 0 also where both are -inf
    difference = float(apart.max())
    if not difference <= TOLERANCE * torch.finfo(expected.dtype).eps * max(1.0, float(expected.abs().max())):
        raise Mismatch(f"every neuron's count is its quantizer's level, but the output differs by {difference:.3g}")
    return difference
