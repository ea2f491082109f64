"""The check that a spiking network counts, neuron by neuron, what its quantized network computes."""

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
            f"their quantizers' levels, settled after {self.settled} of {self.steps} steps; the outputs differ by at "
            f"most {self.deviation:.1g}"
        )


def verify(qann: nn.Module, snn: SpikingNetwork, *inputs: Any, steps: int | None = None) -> Comparison:
    """Compare every neuron's count with its quantizer's level after ``steps`` steps; raise at the first difference.

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
    """What a quantized network returns, and the level of every unit of its quantizers, by their paths.

    Raises `InvalidArgument` where it does not run on these inputs.
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
    """The number of units of a layer, all of which agree; raises `Mismatch` where one does not."""
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
    """The largest absolute difference of an output; raises `Mismatch` where rounding does not explain it."""
    apart = torch.where(after == expected, 0.0, (after - expected).abs())  # 0 also where both are -inf
    difference = float(apart.max())
    if not difference <= TOLERANCE * torch.finfo(expected.dtype).eps * max(1.0, float(expected.abs().max())):
        raise Mismatch(f"every neuron's count is its quantizer's level, but the output differs by {difference:.3g}")
    return difference
