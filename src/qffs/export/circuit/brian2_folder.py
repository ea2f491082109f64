"""A network for Brian 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qffs.export.circuit import folder as circuit_folder
from qffs.export.target import Target, Written
from qffs.spiking.network import SpikingNetwork


def brian2(
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write a network as populations of neurons and synapses, with a script ``run.py`` that simulates it in Brian 2.

    The script needs NumPy and Brian 2, not qffs. It simulates ``inputs`` (by default four random ones) for T ``steps``
    (8, at least 2 D) and says whether all spikes are the network's own, which are kept beside it, or any other inputs
    from ``.npy`` files. Each neuron sends positive and negative spikes, as two events. A spike takes one step from a
    population to the next, so that the network's spikes come later, by as many steps as populations lie before, and are
    the same otherwise.

    Max pooling becomes neurons too, each of them signed (see `qffs.export.circuit.extract`). Raises `NotConvertible`,
    naming each operator that is not linear, and on more than 100,000 units; `Mismatch` where the written network would
    send other spikes than this one in float64.
    """
    return circuit_folder.write(BRIAN2, snn, folder, steps, inputs, progress)


BRIAN2 = Target(
    "brian2",
    "a folder with a script for Brian 2, with the same spikes: python FOLDER/run.py",
    ("snn",),
    brian2,
    frozenset({"steps", "inputs", "progress"}),
    folder=True,
)
