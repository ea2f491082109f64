"""The plan and the conversion of one network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qffs.convert import plan as plan_of
from qffs.convert import to_spiking
from qffs.errors import InvalidArgument
from qffs.files import Results
from qffs.graph.plan import Plan
from qffs.models import find, trained
from qffs.models.checkpoint import save
from qffs.models.load import load_kind
from qffs.progress import wait
from qffs.runs.inputs import seeded_device
from qffs.runs.outputs import check_checkpoint


def plan(
    model: str, shapes: Sequence[find.Shape] = (), weights: str | None = None, progress: bool = True
) -> tuple[Plan, str]:
    """Return the plan of the network of a name, and the shapes of its inputs as a text; nothing is written.

    shapes: the shapes of the inputs without the batch dimension; by default those that the network's source names.
    """
    with wait(f"reading {model}", show=progress):
        source = find.find(model, weights)
        example = find.example(model, source, shapes)
        return plan_of(source.network, example), find.show(tuple(x.shape[1:]) for x in example)


def convert(
    checkpoint: Path,
    folder: Path,
    charge_steps: int | Sequence[float] | None,
    *,
    device: str = "auto",
    seed: int = 0,
) -> Results:
    """Convert the quantized network of a checkpoint to a spiking network and write it to ``folder``.

    charge_steps: None takes the schedule on the card of a trained network of the library, else D = 2^b - 1. Returns the
    description of the checkpoint, the ``charge_schedule`` and the ``highest_level`` of each layer. Raises
    `InvalidArgument` if ``folder`` is the checkpoint or lies in it, holds another kind of network, or belongs to a run.
    """
    torch_device = seeded_device(device, seed)
    if folder.resolve() == checkpoint.resolve():
        raise InvalidArgument(f"the spiking network would replace the quantized one in {folder}: name another folder")
    if checkpoint.resolve() in folder.resolve().parents:
        raise InvalidArgument(
            f"{folder} lies inside the checkpoint {checkpoint}, which must not change: name another folder"
        )
    check_checkpoint(folder, "snn", str(checkpoint))
    loaded = load_kind("qann", checkpoint, "convert takes a quantized one")
    if charge_steps is None and trained.is_name(checkpoint):
        charge_steps = trained.schedule(str(checkpoint))
    snn = to_spiking(loaded.network.to(torch_device), charge_steps)
    save(snn, folder, loaded.about)
    layers = {path: neuron.highest for path, neuron in snn.neurons()}
    return {**loaded.about, "charge_schedule": list(snn.schedule.weights), "highest_level": layers}
