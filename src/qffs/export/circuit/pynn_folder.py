"""A network for PyNN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qffs.export.circuit import folder as circuit_folder
from qffs.export.target import Target, Written
from qffs.spiking.network import SpikingNetwork


def pynn(
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write a network as `qffs.export.brian2` does, with a script ``run.py`` that simulates it in PyNN, on Brian 2.

    The script needs NumPy, PyNN and Brian 2, not qffs. PyNN's neurons send spikes of one kind and its projections have
    weights of one sign, so each population is a pair of twins, for positive and for negative spikes, and each
    connection eight projections. A spike takes two steps from a population to the next. PyNN makes connections one by
    one, some thousand a second: this is for small networks.

    Arguments, what is returned and what is raised are those of `qffs.export.brian2`.
    """
    return circuit_folder.write(PYNN, snn, folder, steps, inputs, progress)


PYNN = Target(
    "pynn",
    "a folder with a script for PyNN on Brian 2, with the same spikes: python FOLDER/run.py",
    ("snn",),
    pynn,
    frozenset({"steps", "inputs", "progress"}),
    folder=True,
)
