"""Whether a tensor is still the one that something was made from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
