"""Exact networks read from files of NIR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qffs.export.nir.write import NIR_EXACT

if TYPE_CHECKING:
    from qffs.export.nir.run import ExactNirNetwork


def read_nir(path: str | Path) -> ExactNirNetwork:
    """Return the network in a file that `nir_exact` wrote; no code from the file is run.

    path: the file. Returns a network that is called as ``network(x, steps=8)``: it takes ``[B, ...]`` and returns the
    read-out after each step, ``[T, B, ...]``, in float64. ``network.run(x, steps=8)`` returns the read-out and the
    spikes of each layer, ``[T, B, ...]``.

    Raises `CheckpointError` if the file cannot be read, is damaged, would need more memory than its size allows, or was
    not written by `nir_exact`, as the approximations of `nir`; and `InvalidArgument` if NIR is not installed.
    """
    NIR_EXACT.installed()
    from qffs.export.nir.run import ExactNirNetwork
    from qffs.export.nir.stored import read

    return ExactNirNetwork(read(path), path)
