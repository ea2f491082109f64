"""A program that PyTorch alone can load: `torch.export`'s archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qffs.errors import InvalidArgument, Mismatch
from qffs.export.program import plain, program
from qffs.export.target import Network, Target, Written, apart, examples, steps_of
from qffs.report.results import write


def pt2(
    network: Network, path: str | Path, steps: int | None = None, example: Tensor | Sequence[Tensor] = ()
) -> Written:
    """Write a quantised network, or T steps of a spiking one, as an archive of `torch.export`.

    It needs no qffs where it is loaded: ``torch.export.load(path).module()(x)`` takes ``[B, ...]`` and returns what the
    network does, a spiking one the read-out after each step, ``[T, B, ...]``. steps: T, by default 8 and at least 2 D;
    example: one input, or several, where they are not floating-point numbers.

    Returned: what was written, after it was read again and run beside the network. Raises `NotConvertible` where
    PyTorch cannot export the network, `Mismatch` where what was read again computes something else, `InvalidArgument`
    where the path does not end in ".pt2".
    """
    kind = PT2.check(network)
    path, steps = Path(path), steps_of(network, steps)
    if path.suffix != ".pt2":
        raise InvalidArgument(f"PyTorch loads archives by their suffix: name a file that ends in .pt2, not {path.name}")
    module = plain(network, steps)
    exported, given = program(module, examples(network, 2, example)), examples(network, 3, example)

    def written(fresh: Path) -> None:
        with fresh.open("wb") as stream:  # to a path that cannot be written PyTorch raises no OSError
            torch.export.save(exported, stream)
        with torch.no_grad():
            deviation = apart(torch.export.load(fresh).module()(*given), module(*given))
        if deviation:
            raise Mismatch(f"what would be written to {path} differs from the network by {deviation:.3g}")

    write(path, written)
    return Written(path, kind, steps, 0.0)


PT2 = Target(
    "pt2", "an archive of torch.export, which PyTorch loads without qffs", ("snn", "qann"), pt2, frozenset({"steps"})
)
