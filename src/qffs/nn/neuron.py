"""The neuron as a module: one threshold, or one a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace

import torch
from torch import Tensor, nn

from qffs.functional import neuron as fire
from qffs.functional.lsq import NEAREST, SMALLEST_STEP_SIZE, accumulation_dtype, along_channels
from qffs.method import FiringRule, Levels
from qffs.nn.quantizer import Quantizer


class Neuron(nn.Module):
    """A layer of signed integrate-and-fire neurons; ``threshold`` θ is a buffer in the network's own units.

    It is a scalar, or one θ a channel of ``shape`` ``[C, 1, ...]``: as it multiplies spikes ``[T, B, C, ...]``. Nothing
    is kept between calls: the state comes in and goes out. See `qffs.functional.neuron` for the equations.
    """

    def __init__(
        self,
        highest: int,
        precharge: float = NEAREST,
        negative_spikes: bool = True,
        cap: bool = True,
        shape: Sequence[int] = (),
        to_zero: bool = False,
        several: bool = False,
        leak: float = 1.0,
    ) -> None:
        super().__init__()
        self.highest = Levels(highest).highest
        self.precharge, self.negative_spikes, self.cap = float(precharge), bool(negative_spikes), bool(cap)
        self.to_zero, self.several, self.leak = bool(to_zero), bool(several), float(leak)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.ones(tuple(shape)))

    @classmethod
    def from_quantizer(cls, quantizer: Quantizer, rule: FiringRule, activations: Sequence[int] = ()) -> Neuron:
        """The neuron whose settled count is the quantizer's level: θ = s, the same n, pre-charge = rounding offset.

        activations: their shape ``[B, C, ...]``, needed where each channel has a step size of its own.
        """
        rule = replace(rule, precharge=quantizer.offset if rule.precharge is None else rule.precharge)
        neuron = cls(quantizer.highest, shape=(), **asdict(rule))
        step_size = along_channels(quantizer.step_size.detach(), activations)
        neuron.threshold = step_size.clone().clamp_min(SMALLEST_STEP_SIZE)
        return neuron

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the threshold."""
        return tuple(self.threshold.shape)

    @property
    def rule(self) -> FiringRule:
        """What this neuron may do."""
        return FiringRule(**{each.name: getattr(self, each.name) for each in fields(FiringRule)})

    def rest(self, like: Tensor) -> fire.NeuronState:
        """The state before the first step, of the shape of ``like`` and in the type sums are done in."""
        wide = accumulation_dtype(like.dtype)
        return fire.rest(like.to(wide), self.threshold.to(wide), self.precharge)

    def forward(
        self,
        state: fire.NeuronState,
        constant: Tensor | None,
        increments: Tensor | None,
        charge: Sequence[float],
    ) -> tuple[Tensor, fire.NeuronState]:
        """Spikes ``[T, B, ...]`` in {-1, 0, 1} and the next state; arguments as in `qffs.functional.neuron.fire`."""
        threshold = self.threshold.to(state.potential.dtype)
        return fire.fire(state, constant, increments, charge, threshold, self.highest, self.rule)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        rule = f"precharge={self.precharge}, negative={self.negative_spikes}, cap={self.cap}"
        others = "".join(f", {name}=True" for name in ("to_zero", "several") if getattr(self, name))
        others += f", leak={self.leak}" if self.leak != 1 else ""
        return f"highest={self.highest}, {rule}{others}, shape={self.shape}"
