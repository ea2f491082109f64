"""A layer for the kernels: its synapses (a convolution or a linear layer), the signals, and its neurons at rest."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
import xxhash
from torch import Tensor, nn

from qffs.functional.sparse_steps import SparseSteps
from qffs.kernels.cpu import weights
from qffs.kernels.cpu.queue import Pending
from qffs.kernels.cpu.weights import Weights
from qffs.method import FiringRule

DIMENSIONS: dict[type[nn.Module], int] = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4}
"""The layers that can be synapses, with the number of dimensions of their inputs."""


@dataclass(frozen=True, eq=False)
class Synapses:
    """The weights ``[C_out, C_in, kh, kw]`` of a layer, with its stride and its padding of zeros, each ``(y, x)``."""

    kernel: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    _packed: dict[tuple[int, bool], Weights] = field(default_factory=dict, repr=False)

    def sizes(self, inputs: Sequence[int]) -> list[int]:
        """Return the height and width of the result from those of the input; or the width alone, or nothing."""
        windows = [*zip(self.kernel.shape[2:], self.stride, self.padding, strict=True)][2 - len(inputs) :]
        return [(n + 2 * p - k) // s + 1 for n, (k, s, p) in zip(inputs, windows, strict=True)]

    @cached_property
    def divisible(self) -> bool:
        """True where the weights can be computed as two digits (`qffs.kernels.cpu.weights`)."""
        return weights.divisible(self.kernel)

    def packed(self, block: int, digits: bool) -> Weights:
        """Return the weights for blocks of ``block`` neurons, in rows of ``kw kh C_in``; zeros fill the last block.

        digits: whether as two digits, where the weights are `divisible`.
        """
        if (block, digits) not in self._packed:
            outputs = math.ceil(len(self.kernel) / block) * block
            kernel = F.pad(self.kernel.detach(), (0, 0, 0, 0, 0, 0, 0, outputs - len(self.kernel)))
            rows = kernel.unflatten(0, (-1, block)).permute(0, 4, 3, 2, 1).flatten(1, 3).contiguous()
            self._packed[block, digits] = weights.in_digits(rows) if digits else Weights(rows)
        return self._packed[block, digits]


_cache: weakref.WeakKeyDictionary[nn.Module, tuple[Fingerprint, Synapses | None]] = weakref.WeakKeyDictionary()


def of(module: nn.Module) -> Synapses | None:
    """Return the synapses of a module without a bias; None for other modules, and for grouped and dilated ones.

    The synapses and their packed weights are cached until the weight changes.
    """
    weight = getattr(module, "weight", None)
    if type(module) not in DIMENSIONS or not isinstance(weight, Tensor):
        return None
    now, entry = Fingerprint.of(weight), _cache.get(module)
    if entry is None or entry[0] != now:
        entry = _cache[module] = (now, _of(module, weight.detach()))
    return entry[1]


def _of(module: nn.Module, weight: Tensor) -> Synapses | None:
    if isinstance(module, nn.Linear):
        return Synapses(weight[:, :, None, None], (1, 1), (0, 0))
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    plain = module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str):
        return None
    kernel = weight if weight.dim() == 4 else weight.unsqueeze(2)
    return Synapses(kernel, _pair(module.stride, 1), _pair(module.padding, 0))


def _pair(sizes: Sequence[int], vertical: int) -> tuple[int, int]:
    """Return ``(y, x)`` from two sizes, or from one size x, where y is ``vertical``."""
    y, x = sizes if len(sizes) == 2 else (vertical, *sizes)
    return y, x


@dataclass(frozen=True, eq=False)
class Projection:
    """The signal of levels through the synapses of a module. Neurons can add it up, so it need not be computed."""

    source: SparseSteps | Pending
    module: nn.Module
    synapses: Synapses
    empty_like: Tensor
    """An empty tensor of the signal's type and shape, ``[0, ...]``."""

    @staticmethod
    def of(source: SparseSteps | Pending, module: nn.Module) -> Projection | None:
        """Return the projection of levels through a module; None where it has no synapses, or none that fit."""
        synapses, like = of(module), source.empty_like
        if synapses is None or DIMENSIONS[type(module)] != like.dim() or like.shape[1] != synapses.kernel.shape[1]:
            return None
        sizes = synapses.sizes(like.shape[2:])
        if min(sizes, default=1) <= 0:
            return None
        return Projection(source, module, synapses, synapses.kernel.new_empty(0, len(synapses.kernel), *sizes))

    @property
    def size(self) -> torch.Size:
        """The number of steps T and of images B."""
        return self.source.size

    def rows(self) -> SparseSteps:
        """Compute the signal, and return it."""
        numbers = computed(self.source).numbers
        return SparseSteps(self.module(numbers.values), numbers.index)


def computed(signal: SparseSteps | Pending | Projection) -> SparseSteps:
    """Return a signal as tensors; compute it first where it is not computed yet."""
    return signal if isinstance(signal, SparseSteps) else signal.rows()


WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
"""Whole numbers of as many bytes as one value of a tensor, or half as many, to read its bits."""


MIXING = -0x61C8864680B583EB
"""An odd number that spreads neighboring places over 64 bits: 2^64 divided by the golden ratio."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A tensor and a hash of all its bytes: equal fingerprints mean that the tensor did not change.

    PyTorch's own count of changes misses those through ``.data`` and NumPy, and inference tensors have none.

    >>> x = torch.tensor([1.0, 2.0])
    >>> before = Fingerprint.of(x)
    >>> before == Fingerprint.of(x)
    True
    >>> x.data.copy_(x.flip(0))
    tensor([2., 1.])
    >>> before == Fingerprint.of(x)
    False
    """

    tensor: Tensor
    digest: int

    @staticmethod
    def of(tensor: Tensor) -> Fingerprint:
        """Return the fingerprint of a tensor as it is now."""
        # Detached, it keeps its memory where the parameter gets another, as by `nn.Module.to`.
        tensor = tensor.detach()
        return Fingerprint(tensor, digest(tensor))

    def __eq__(self, other: object) -> bool:
        """Return whether both are of the same memory, in the same type and layout, with the same bytes."""
        return (
            isinstance(other, Fingerprint)
            and self.tensor.data_ptr() == other.tensor.data_ptr()
            and (self.tensor.shape, self.tensor.stride()) == (other.tensor.shape, other.tensor.stride())
            and (self.tensor.dtype, self.digest) == (other.tensor.dtype, other.digest)
        )

    __hash__ = None  # type: ignore[assignment]


def digest(tensor: Tensor) -> int:
    """Return a hash of 64 bits of a tensor's bytes, in the order in which they lie in memory.

    On a CPU it is XXH3, which reads memory about as fast as a sum does; elsewhere it is `weighted`.

    >>> digest(torch.tensor([1.0, 2.0])) == digest(torch.tensor([2.0, 1.0]))
    False
    """
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # such as channels last, without a copy
    flat = tensor.permute(order).resolve_conj().resolve_neg().contiguous().flatten()
    bits = flat.view(WORDS[flat.element_size()])
    if bits.device.type == "cpu":
        return xxhash.xxh3_64_intdigest(bits.numpy().data) if bits.numel() else 0
    return weighted(bits)


def weighted(bits: Tensor) -> int:
    """Return the sum of whole numbers ``[N]``, each times an odd number that depends on its place, modulo 2^64.

    >>> weighted(torch.tensor([1, 2])) == weighted(torch.tensor([2, 1]))
    False
    """
    place = torch.arange(1, len(bits) + 1, dtype=torch.int64, device=bits.device) * MIXING
    return int((bits * ((place ^ (place >> 29)) * MIXING | 1)).sum())


Signal = SparseSteps | Pending | Projection
"""An input of neurons: computed, in the queue, or a projection that is not computed."""


@dataclass(frozen=True, eq=False)
class Neurons:
    """A layer of neurons at rest, and its inputs during T steps.

    inputs: signals of other neurons, accumulated over time; they are added up. constant: ``[B, ...]`` or None, injected
    with the T weights of ``charge``. threshold, highest and rule: as in `qffs.functional.neuron.step`; the rule holds
    its pre-charge.
    """

    inputs: Sequence[Signal]
    constant: Tensor | None
    charge: Sequence[float]
    threshold: Tensor
    highest: int
    rule: FiringRule

    @property
    def empty_like(self) -> Tensor:
        """An empty tensor ``[0, ...]`` of the type and shape of the inputs."""
        if self.inputs:
            return self.inputs[0].empty_like
        assert self.constant is not None
        return self.constant[:0]

    @property
    def size(self) -> tuple[int, int]:
        """The number of steps T and of images B."""
        if self.inputs:
            steps, images = self.inputs[0].size
            return steps, images
        assert self.constant is not None
        return len(self.charge), len(self.constant)

    @property
    def precharge(self) -> float:
        """The potential before the first step, in thresholds."""
        assert self.rule.precharge is not None
        return self.rule.precharge

    @property
    def is_standard(self) -> bool:
        """True for one spike per step, which takes one threshold off the potential, without a leak."""
        return self.rule.is_standard

    @property
    def levels(self) -> torch.dtype:
        """The smallest type of whole numbers that holds every level of a run."""
        largest = self.highest if self.rule.cap else len(self.charge)
        if self.rule.multi_spike and not self.rule.cap:
            return torch.int32
        return torch.uint8 if largest <= torch.iinfo(torch.uint8).max else torch.int32

    def rows(self) -> list[SparseSteps]:
        """Compute the inputs, and return them."""
        return [computed(each) for each in self.inputs]
