"""The fingerprint of a tensor, which tells whether its values have changed since."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

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
    flat = tensor.permute(order).contiguous().flatten()
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
