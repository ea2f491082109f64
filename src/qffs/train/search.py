"""The search of step sizes by the outputs of the whole network, one quantizer after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qffs.errors import InvalidArgument
from qffs.graph.blocks import blocks, in_order, joined, part
from qffs.graph.replace import in_full_precision
from qffs.nn.quantizer import Quantizer
from qffs.train.error import error, sizes
from qffs.train.values import Values, values

FACTOR, MOVES = 1.15, 6
"""A step size is multiplied or divided by this factor, at most so often, as long as the outputs become better."""


class Outputs:
    """The outputs of a quantized network for some images, beside those of the same network without quantizers.

    kl: measure their `divergence` instead of `qffs.train.error.error`.
    """

    def __init__(self, qann: fx.GraphModule, inputs: Values, kl: bool = False) -> None:
        self.qann, self.inputs, self.parts = qann, inputs, blocks(qann)
        targets = values(part(in_full_precision(qann, qann).eval(), joined(self.parts)), inputs)
        self.measure = _divergence(targets) if kl else _error(targets)

    def error(self) -> float:
        """Return the error of the outputs with the present step sizes."""
        return self.measure(values(part(self.qann, joined(self.parts)), self.inputs))

    def search(self) -> None:
        """Multiply each step size by the power of `FACTOR` with the least error of the outputs, in place.

        The quantizers take turns in the order of computation; those after the one whose turn it is quantize too.
        """
        inputs = self.inputs
        for number, block in enumerate(self.parts):
            network, rest = part(self.qann, block), part(self.qann, joined(self.parts[number:]))
            for quantizer in in_order(network).values():
                self._search_one(quantizer, rest, inputs)
            inputs = values(network, inputs)

    def _search_one(self, quantizer: Quantizer, rest: fx.GraphModule, inputs: Values) -> None:
        first, least, best = quantizer.step_size.detach().clone(), self.measure(values(rest, inputs)), 0
        for direction in (-1, 1):
            while abs(best) < MOVES and (not best or best * direction > 0):
                quantizer.set_first(first * FACTOR ** (best + direction))
                now = self.measure(values(rest, inputs))
                if not now < least:
                    break
                best, least = best + direction, now
        quantizer.set_first(first * FACTOR**best)


def _error(targets: Values) -> Callable[[Values], float]:
    size = sizes(targets)
    return lambda outputs: float(error(outputs, targets, size))


def _divergence(targets: Values) -> Callable[[Values], float]:
    if len(targets) != 1 or targets[0].dim() < 2 or targets[0].shape[1] < 2:
        raise InvalidArgument('"kl" takes networks with one output of classes in dimension 1; "output" takes any')
    wanted = F.log_softmax(targets[0].double(), 1)
    return lambda outputs: float(divergence(outputs[0], wanted))


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over images of ``sum(p (log p - log q))``, q: softmax of ``logits`` ``[B, K]``, wanted: log p.

    Classes whose p is 0, as a mask makes it, are left out.
    """
    possible = wanted > -torch.inf
    q, p = (x.masked_fill(~possible, 0) for x in (F.log_softmax(logits.double(), 1), wanted))
    return (p.exp() * (p - q)).masked_fill(~possible, 0).sum() / len(logits)
