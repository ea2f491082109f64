"""The neuron as a module: one threshold, or one for each channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from qffs.functional import neuron as fire
from qffs.functional.lsq import NEAREST, accumulation_dtype, along_channels, smallest_step_size
from qffs.method import FiringRule, Levels
from qffs.nn.quantizer import Quantizer


class Neuron(nn.Module):
    """A layer of signed integrate-and-fire neurons. The buffer ``threshold`` θ is in the units of the activations.

    highest: n, the highest level; rule: the firing rule, by default `FiringRule()`; a pre-charge of None is half a
    threshold here; shape: of θ, ``()`` for one θ, or ``[C, 1, ...]`` for one per channel, which multiplies spikes
    ``[T, B, C, ...]``. The module keeps no state between calls: the caller passes the state in and receives the next
    one. Raises `InvalidArgument` where n is impossible. See `qffs.functional.neuron` for the equations.
    """

    def __init__(self, highest: int, rule: FiringRule | None = None, shape: Sequence[int] = ()) -> None:
        super().__init__()
        rule = rule or FiringRule()
        self.highest = Levels(highest).highest
        self.rule = replace(rule, precharge=NEAREST if rule.precharge is None else rule.precharge)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.ones(tuple(shape)))

    @classmethod
    def from_quantizer(cls, quantizer: Quantizer, rule: FiringRule, activations: Sequence[int] = ()) -> Neuron:
        """Return the neuron whose settled count is the quantizer's level: θ = s, same n, pre-charge = offset.

        rule: its pre-charge is used unless that is None; activations: the shape ``[B, C, ...]`` of the activations,
        needed where each channel has its own step size.
        """
        rule = replace(rule, precharge=quantizer.offset if rule.precharge is None else rule.precharge)
        neuron = cls(quantizer.highest, rule)
        step_size = along_channels(quantizer.step_size.detach(), activations)
        neuron.threshold = step_size.clone().clamp_min(smallest_step_size(step_size.dtype))
        return neuron

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the threshold."""
        return tuple(self.threshold.shape)

    @property
    def precharge(self) -> float:
        """The potential before the first step, in thresholds."""
        assert self.rule.precharge is not None
        return self.rule.precharge

    def rest(self, like: Tensor) -> fire.NeuronState:
        """Return the state before the first step, in the shape of ``like`` and in the type for sums."""
        wide = accumulation_dtype(like.dtype)
        return fire.rest(like.to(wide), self.threshold.to(wide), self.precharge)

    def forward(
        self,
        state: fire.NeuronState,
        constant: Tensor | None,
        increments: Tensor | None,
        charge: Sequence[float],
    ) -> tuple[Tensor, fire.NeuronState]:
        """Return spikes ``[T, B, ...]`` in {-1, 0, 1} and the next state; see `qffs.functional.neuron.fire`."""
        threshold = self.threshold.to(state.potential.dtype)
        return fire.fire(state, constant, increments, charge, threshold, self.highest, self.rule)

    def extra_repr(self) -> str:
        """Return the text that `print` shows between the parentheses."""
        standard = f"highest={self.highest}, precharge={self.precharge}, negative={self.rule.negative_spikes}"
        others = [f"{name}={getattr(self.rule, name)!r}" for name in ("reset", "multi_spike", "decay")
                  if getattr(self.rule, name) != getattr(FiringRule, name)]  # fmt: skip
        return ", ".join([standard, f"cap={self.rule.cap}", *others, f"shape={self.shape}"])
