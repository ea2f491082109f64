"""Synapses: a convolution or a linear layer, as weights that spikes lead to."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import weights
from qffs.kernels.cpu.queue import Pending
from qffs.kernels.cpu.weights import Weights
from qffs.method import FiringRule

DIMENSIONS: dict[type[nn.Module], int] = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4}
"""Of what goes through the layers that are synapses."""


@dataclass(frozen=True, eq=False)
class Synapses:
    """A kernel ``[C_out, C_in, kh, kw]`` at a stride and with a padding of zeros, each ``(y, x)``."""

    kernel: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    _packed: dict[tuple[int, bool], Weights] = field(default_factory=dict, repr=False)

    def sizes(self, given: Sequence[int]) -> list[int]:
        """Height and width, or width, of what comes of an image of these; of vectors, which have none, none."""
        windows = [*zip(self.kernel.shape[2:], self.stride, self.padding, strict=True)][2 - len(given) :]
        return [(n + 2 * p - k) // s + 1 for n, (k, s, p) in zip(given, windows, strict=True)]

    @cached_property
    def divisible(self) -> bool:
        """Whether its weights may be taken as two digits."""
        return weights.divisible(self.kernel)

    def packed(self, block: int, digits: bool) -> Weights:
        """For blocks of so many neurons, in rows of ``kw kh C_in``; the last block is filled up with zeros."""
        if (block, digits) not in self._packed:
            outputs = math.ceil(len(self.kernel) / block) * block
            kernel = F.pad(self.kernel.detach(), (0, 0, 0, 0, 0, 0, 0, outputs - len(self.kernel)))
            rows = kernel.unflatten(0, (-1, block)).permute(0, 4, 3, 2, 1).flatten(1, 3).contiguous()
            self._packed[block, digits] = weights.in_digits(rows) if digits else Weights(rows)
        return self._packed[block, digits]


_known: weakref.WeakKeyDictionary[nn.Module, tuple[Fingerprint, Synapses | None]] = weakref.WeakKeyDictionary()


def of(module: nn.Module) -> Synapses | None:
    """Those of a module without a bias; None where it is no such layer, or one that is grouped or dilated.

    They are kept, with their packed weights, until the weight changes.
    """
    weight = getattr(module, "weight", None)
    if type(module) not in DIMENSIONS or not isinstance(weight, Tensor):
        return None
    now, known = Fingerprint.of(weight), _known.get(module)
    if known is None or known[0] != now:
        known = _known[module] = (now, _of(module, weight.detach()))
    return known[1]


def _of(module: nn.Module, weight: Tensor) -> Synapses | None:
    if isinstance(module, nn.Linear):
        return Synapses(weight[:, :, None, None], (1, 1), (0, 0))
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str):
        return None
    kernel = weight if weight.dim() == 4 else weight.unsqueeze(2)
    return Synapses(kernel, _pair(module.stride, 1), _pair(module.padding, 0))


def _pair(given: Sequence[int], above: int) -> tuple[int, int]:
    y, x = given if len(given) == 2 else (above, *given)
    return y, x


@dataclass(frozen=True, eq=False)
class Projection:
    """What levels send through a module's synapses: a signal that neurons can add up without its being computed."""

    source: SparseSteps | Pending
    module: nn.Module
    synapses: Synapses
    empty_like: Tensor
    """An empty tensor of the signal's type and shape, ``[0, ...]``."""

    @staticmethod
    def of(source: SparseSteps | Pending, module: nn.Module) -> Projection | None:
        """Of levels through a module; None where the module has no synapses, or none for such levels."""
        found, like = of(module), source.empty_like
        if found is None or DIMENSIONS[type(module)] != like.dim() or like.shape[1] != found.kernel.shape[1]:
            return None
        sizes = found.sizes(like.shape[2:])
        if min(sizes, default=1) <= 0:
            return None
        return Projection(source, module, found, found.kernel.new_empty(0, len(found.kernel), *sizes))

    @property
    def size(self) -> torch.Size:
        """T and B."""
        return self.source.size

    def rows(self) -> SparseSteps:
        """The signal, computed."""
        numbers = computed(self.source).numbers
        return SparseSteps(self.module(numbers.values), numbers.index)


def computed(signal: SparseSteps | Pending | Projection) -> SparseSteps:
    """A signal as tensors that anybody may read."""
    return signal if isinstance(signal, SparseSteps) else signal.rows()


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A tensor, its version where it has one, and its sum, which changes made behind PyTorch's back change too.

    >>> import torch
    >>> x = torch.ones(3)
    >>> before = Fingerprint.of(x)
    >>> before == Fingerprint.of(x)
    True
    >>> x.data[1] = 5
    >>> before == Fingerprint.of(x)
    False
    """

    tensor: Tensor
    version: int
    total: float

    @staticmethod
    def of(tensor: Tensor) -> Fingerprint:
        """That of a tensor as it is now."""
        version = -1 if tensor.is_inference() else tensor._version
        # Detached, it keeps its memory when a module's parameter is given other, as `nn.Module.to` does.
        return Fingerprint(tensor.detach(), version, float(tensor.detach().sum()))

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same memory, unchanged; of NaN never."""
        return (
            isinstance(other, Fingerprint)
            and (self.tensor.data_ptr(), self.tensor.shape) == (other.tensor.data_ptr(), other.tensor.shape)
            and (self.version, self.total) == (other.version, other.total)
        )

    __hash__ = None  # type: ignore[assignment]


Signal = SparseSteps | Pending | Projection
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
    def empty_like(self) -> Tensor:
        """An empty tensor of the type and shape of what arrives, ``[0, ...]``."""
        if self.inputs:
            return self.inputs[0].empty_like
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
    def is_standard(self) -> bool:
        """Whether a spike takes one threshold off the potential, one spike a step, and nothing else is lost."""
        return self.rule.is_standard

    @property
    def levels(self) -> torch.dtype:
        """The smallest type of whole numbers that holds every level of a run."""
        largest = self.highest if self.rule.cap else len(self.charge)
        if self.rule.multi_spike and not self.rule.cap:
            return torch.int32
        return torch.uint8 if largest <= torch.iinfo(torch.uint8).max else torch.int32

    def rows(self) -> list[SparseSteps]:
        """The inputs, computed."""
        return [computed(each) for each in self.inputs]
