"""A layer of neurons, and what arrives at it in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qffs.functional.sparse_steps import Rows
from qffs.kernels.cpu.queue import Pending
from qffs.kernels.layer import Projection, computed
from qffs.method import FiringRule

Signal = Rows | Pending | Projection
"""What arrives at neurons, as far as it has been computed."""


@dataclass(frozen=True, eq=False)
class Neurons:
    """A layer of neurons at rest, and what arrives at it in T steps.

    inputs: what other neurons sent, accumulated over time, each ``[R, ...]`` with its place ``[T, B]``, or through
    synapses; they are added up. constant: ``[B, ...]`` or None, and charge: the T weights that it comes with.
    threshold, highest and rule: as in `qffs.functional.neuron.step`, the pre-charge of the rule included.
    """

    inputs: Sequence[Signal]
    constant: Tensor | None
    charge: Sequence[float]
    threshold: Tensor
    highest: int
    rule: FiringRule

    @property
    def like(self) -> Tensor:
        """An empty tensor of the type and shape of what arrives, ``[0, ...]``."""
        if self.inputs:
            return self.inputs[0].like
        assert self.constant is not None
        return self.constant[:0]

    @property
    def size(self) -> tuple[int, int]:
        """T and B."""
        if self.inputs:
            steps, images = self.inputs[0].size
            return steps, images
        assert self.constant is not None
        return len(self.charge), len(self.constant)

    @property
    def precharge(self) -> float:
        """That of the rule."""
        assert self.rule.precharge is not None
        return self.rule.precharge

    @property
    def loses(self) -> bool:
        """Whether neurons lose more of their potential than a threshold a spike."""
        return not self.rule.plain

    @property
    def levels(self) -> torch.dtype:
        """The smallest type of whole numbers that holds every level of a run."""
        largest = self.highest if self.rule.cap else len(self.charge)
        if self.rule.several and not self.rule.cap:
            return torch.int32
        return torch.uint8 if largest <= torch.iinfo(torch.uint8).max else torch.int32

    def rows(self) -> list[Rows]:
        """The inputs, computed."""
        return [computed(each) for each in self.inputs]
