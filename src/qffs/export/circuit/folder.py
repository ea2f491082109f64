"""Folders with a circuit, examples of its spikes, and a script that runs it in a simulator without this library."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qffs.errors import InvalidArgument, Mismatch
from qffs.export.circuit.circuit import Circuit, simulate
from qffs.export.circuit.extract import circuit
from qffs.export.circuit.unit_response import names_of
from qffs.export.target import Target, Written, close, inputs_to_try, steps_of
from qffs.files import check_replaceable, expanded, write_folder
from qffs.graph import batch_axis
from qffs.graph.nested import tensors
from qffs.graph.replace import plain_copy
from qffs.graph.site import Kind, site
from qffs.spiking.network import SpikingNetwork

SCRIPTS = Path(__file__).parent / "scripts"
NETWORK, READER, SCRIPT = FILES = ("network.npz", "network.py", "run.py")
SHOWN = 4
"""The default number of random examples."""


def write(
    target: Target,
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write the circuit of a network, its spikes for the inputs in T steps, and the script of the target.

    An earlier export in the folder is replaced when the new one is complete; a folder with other files is not changed.
    The arguments, the result and the errors are those of `brian2`.
    """
    kind, folder = target.check(snn), expanded(folder)
    if folder.exists():
        others = (
            {each.name for each in folder.iterdir()} - {*FILES, "__pycache__"} if folder.is_dir() else {folder.name}
        )
        if others or (any(folder.iterdir()) and not (folder / NETWORK).is_file()):
            raise InvalidArgument(
                f"{folder} holds {min(others, default=SCRIPT)}, which is not a file of an export: name another folder"
            )
        check_replaceable(folder / NETWORK, "a file of an export", b"PK", b"structure.npy")
    length = steps_of(snn, steps)
    assert length is not None
    examples = inputs_to_try(snn, inputs, SHOWN)
    extracted = circuit(snn, progress)
    sent = simulate(extracted, examples, length)
    _compare(snn, examples, sent, length)

    def fill(fresh: Path) -> None:
        np.savez_compressed(fresh / NETWORK, **_arrays(extracted, examples, sent))
        shutil.copyfile(SCRIPTS / READER, fresh / READER)
        shutil.copyfile(SCRIPTS / f"run_{target.name}.py", fresh / SCRIPT)

    write_folder(folder.resolve(), fill, "the export")
    note = f"Its spikes are the network's own; `python {folder / SCRIPT}` sends them again."
    return Written(folder, kind, length, note=note)


def _compare(snn: SpikingNetwork, examples: Sequence[Tensor], sent: dict[str, Tensor], steps: int) -> None:
    """Raise `Mismatch` if a layer of neurons sends other spikes than its population, or if an output differs."""
    names = names_of(plain_copy(snn.graph))
    layers = {str(n.target): n for n in names if isinstance(n, fx.Node) and site(n).kind is Kind.SPIKING}

    def observer(path: str, spikes: Tensor, _: Any) -> None:
        simulated = sent[names[layers[path]]]
        original = spikes.movedim(batch_axis.dimension(layers[path]) + 1, 1).reshape(simulated.shape).to(simulated)
        if not torch.equal(original, simulated):
            step = int((original != simulated).flatten(1).any(1).nonzero()[0])
            raise Mismatch(f"as a circuit, {path} would send other spikes than in the network, from step {step + 1} on")

    readout, _ = copy.deepcopy(snn).cpu().double().run(*examples, steps=steps, observer=observer)
    expected = tensors(readout)
    close([sent[names[k]].view(each.shape) for k, each in enumerate(expected)], expected, "as a circuit")


def _arrays(extracted: Circuit, examples: Sequence[Tensor], sent: dict[str, Tensor]) -> dict[str, Any]:
    """Return the content of network.npz: the arrays by name, and a description in JSON under "structure"."""
    fields = {
        **{f"input {k}/examples": x for k, x in enumerate(examples)},
        **{
            f"population {k}/{field}": getattr(p, field)
            for k, p in enumerate(extracted.populations)
            for field in ("threshold", "initial", "bias")
        },
        **{
            f"synapses {k}/{field}": getattr(s, field)
            for k, s in enumerate(extracted.synapses)
            for field in ("pre", "post", "weight")
        },
        **{
            f"population {k}/expected": sent[p.name].to(torch.int8 if p.fires else torch.float64)
            for k, p in enumerate(extracted.populations)
        },
    }
    structure = {
        "inputs": extracted.inputs,
        "populations": [
            {"name": p.name, "shape": p.shape, "depth": p.depth, "highest": str(p.highest), "negative": p.negative}
            for p in extracted.populations
        ],
        "synapses": [{"source": s.source, "target": s.target} for s in extracted.synapses],
        "charge": extracted.charge,
    }
    return {"structure": np.array(json.dumps(structure))} | {name: x.numpy() for name, x in fields.items()}


def brian2(
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write a spiking network as a circuit, with a script ``run.py`` that simulates it in Brian 2.

    snn: a network that `qffs.to_spiking` returned.
    folder: the folder to write. An earlier export in it is replaced when the new one is complete; a folder with other
        files is not changed.
    steps: T, the time steps of the examples; by default 8, or 2 D if that is larger.
    inputs: the examples, one tensor ``[B, ...]`` for each input of the network; by default four random images.
    progress: show a progress bar on stderr.

    The circuit, populations of neurons and synapses, is written to ``network.npz`` with the examples and their spikes.
    ``python FOLDER/run.py`` needs NumPy and Brian 2, but not qffs. It simulates the examples and compares all
    spikes with those of the network. It can also simulate other inputs from ``.npy`` files. A neuron sends positive and
    negative spikes as two kinds of events. A spike needs one step from a population to the next, so each population
    sends its spikes later by its depth in the network; apart from this delay the spikes are the same. Max pooling
    becomes signed neurons too, see `qffs.export.circuit.extract`.

    Returns a `Written`. Before, the circuit is simulated and compared with the network in float64, spike by spike.

    Raises `NotConvertible` with the name of each operator that is not linear, and on more than 100,000 units;
    `Mismatch` if the circuit would send other spikes than the network; `InvalidArgument` if ``snn`` is not a spiking
    network, if the steps or inputs do not fit, or if the folder contains other files; `CheckpointError` if the folder
    cannot be written.
    """
    return write(BRIAN2, snn, folder, steps, inputs, progress)


BRIAN2 = Target(
    "brian2",
    "a folder with a script for Brian 2, with the same spikes: python FOLDER/run.py",
    ("snn",),
    brian2,
    frozenset({"steps", "inputs", "progress"}),
    folder=True,
)


def pynn(
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write a spiking network as a circuit, with a script ``run.py`` that simulates it in PyNN, with Brian 2.

    snn: a network that `qffs.to_spiking` returned.
    folder: the folder to write. An earlier export in it is replaced when the new one is complete; a folder with other
        files is not changed.
    steps: T, the time steps of the examples; by default 8, or 2 D if that is larger.
    inputs: the examples, one tensor ``[B, ...]`` for each input of the network; by default four random images.
    progress: show a progress bar on stderr.

    The files are those of `qffs.export.brian2`, with another script. ``python FOLDER/run.py`` needs NumPy, PyNN and
    Brian 2, but not qffs. PyNN's neurons send one kind of spikes, and its projections have weights of one sign. So each
    population is a pair of twins, one for positive and one for negative spikes, and each connection is eight
    projections. A spike needs two steps from a population to the next. PyNN creates a few thousand connections per
    second, one by one, so this target is for small networks.

    Returns a `Written`. Before, the circuit is simulated and compared with the network in float64, spike by spike.

    Raises `NotConvertible` with the name of each operator that is not linear, and on more than 100,000 units;
    `Mismatch` if the circuit would send other spikes than the network; `InvalidArgument` if ``snn`` is not a spiking
    network, if the steps or inputs do not fit, or if the folder contains other files; `CheckpointError` if the folder
    cannot be written.
    """
    return write(PYNN, snn, folder, steps, inputs, progress)


PYNN = Target(
    "pynn",
    "a folder with a script for PyNN on Brian 2, with the same spikes: python FOLDER/run.py",
    ("snn",),
    pynn,
    frozenset({"steps", "inputs", "progress"}),
    folder=True,
)
