"""A folder with a circuit, examples of what it sends, and a script that runs it in a simulator without qffs."""

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
from qffs.export.target import Target, Written, close, steps_of, tried
from qffs.files import write_folder
from qffs.graph import batch_axis
from qffs.graph.nested import tensors
from qffs.graph.site import Kind, site
from qffs.spiking.network import SpikingNetwork

SCRIPTS = Path(__file__).parent / "scripts"
NETWORK, READER, SCRIPT = FILES = ("network.npz", "network.py", "run.py")
SHOWN = 4
"""How many random examples are kept where none are given."""


def write(
    target: Target,
    snn: SpikingNetwork,
    folder: str | Path,
    steps: int | None = None,
    inputs: Tensor | Sequence[Tensor] = (),
    progress: bool = False,
) -> Written:
    """Write the circuit of a network, T steps of what it sends for the inputs, and the target's script.

    An earlier export in the folder is replaced when the new one is complete; a folder that holds anything else is not
    touched. Raises `NotConvertible` where there is no circuit of the network, and `Mismatch` where it sends other
    spikes than the network in float64.
    """
    kind, folder = target.check(snn), Path(folder)
    if folder.exists():
        other = {each.name for each in folder.iterdir()} - {*FILES, "__pycache__"} if folder.is_dir() else {folder.name}
        if other or (any(folder.iterdir()) and not (folder / NETWORK).is_file()):
            raise InvalidArgument(
                f"{folder} holds {min(other, default=SCRIPT)}, which is no file of such an export: name another folder"
            )
    length = steps_of(snn, steps)
    assert length is not None
    given = tried(snn, inputs, SHOWN)
    found = circuit(snn, progress)
    sent = simulate(found, given, length)
    _compare(snn, given, sent, length)

    def fill(fresh: Path) -> None:
        np.savez_compressed(fresh / NETWORK, **_arrays(found, given, sent))
        shutil.copyfile(SCRIPTS / READER, fresh / READER)
        shutil.copyfile(SCRIPTS / f"run_{target.name}.py", fresh / SCRIPT)

    write_folder(folder.resolve(), fill, "the export")
    note = f"Its spikes are the network's own; `python {folder / SCRIPT}` sends them again."
    return Written(folder, kind, length, note=note)


def _compare(snn: SpikingNetwork, given: Sequence[Tensor], sent: dict[str, Tensor], steps: int) -> None:
    """Raise `Mismatch` where a layer of neurons sends other spikes than its population, or an output differs."""
    names = names_of(snn.graph)
    layers = {str(n.target): n for n in names if isinstance(n, fx.Node) and site(n).kind is Kind.SPIKING}

    def observer(path: str, spikes: Tensor, _: Any) -> None:
        found = sent[names[layers[path]]]
        own = spikes.movedim(batch_axis.dimension(layers[path]) + 1, 1).reshape(found.shape).to(found)
        if not torch.equal(own, found):
            step = int((own != found).flatten(1).any(1).nonzero()[0])
            raise Mismatch(f"as a circuit, {path} would send other spikes than in the network, from step {step + 1} on")

    readout, _ = copy.deepcopy(snn).cpu().double().run(*given, steps=steps, observer=observer)
    expected = tensors(readout)
    close([sent[names[k]].view(each.shape) for k, each in enumerate(expected)], expected, "as a circuit")


def _arrays(found: Circuit, given: Sequence[Tensor], sent: dict[str, Tensor]) -> dict[str, Any]:
    """What network.npz holds: arrays by name, and in JSON how they belong together."""
    fields = {
        **{f"input {k}/examples": x for k, x in enumerate(given)},
        **{
            f"population {k}/{field}": getattr(p, field)
            for k, p in enumerate(found.populations)
            for field in ("threshold", "initial", "bias")
        },
        **{
            f"synapses {k}/{field}": getattr(s, field)
            for k, s in enumerate(found.synapses)
            for field in ("pre", "post", "weight")
        },
        **{
            f"population {k}/expected": sent[p.name].to(torch.int8 if p.fires else torch.float64)
            for k, p in enumerate(found.populations)
        },
    }
    structure = {
        "inputs": found.inputs,
        "populations": [
            {"name": p.name, "shape": p.shape, "depth": p.depth, "highest": str(p.highest), "negative": p.negative}
            for p in found.populations
        ],
        "synapses": [{"source": s.source, "target": s.target} for s in found.synapses],
        "charge": found.charge,
    }
    return {"structure": np.array(json.dumps(structure))} | {name: x.numpy() for name, x in fields.items()}


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
    """Write a network as `qffs.export.brian2` does, with a script ``run.py`` that simulates it in PyNN, on Brian 2.

    The script needs NumPy, PyNN and Brian 2, not qffs. PyNN's neurons send spikes of one kind and its projections have
    weights of one sign, so each population is a pair of twins, for positive and for negative spikes, and each
    connection eight projections. A spike takes two steps from a population to the next. PyNN makes connections one by
    one, some thousand a second: this is for small networks.

    Arguments, what is returned and what is raised are those of `qffs.export.brian2`.
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
