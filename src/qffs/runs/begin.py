"""A recipe's run as users begin it: in a folder, where an earlier one may go on."""

from __future__ import annotations

import json
from pathlib import Path

from qffs import distributed
from qffs.errors import CheckpointError, InvalidArgument
from qffs.runs.tensorboard import Log
from qffs.runs.train import Run, check_outputs
from qffs.runs.inputs import device_of, materials, usual_augmentation
from qffs.recipes.recipe import Recipe, differences
from qffs.recipes import read
from qffs.report.results import Results
from qffs.train import Interruption, RunState


def demo(recipe: Recipe, folder: Path, progress: bool = True) -> Results:
    """`train`, in a folder whose earlier run is replaced, with shifted (and, photographs, mirrored) images."""
    check_outputs(folder)
    device = device_of(recipe.device)
    given = materials(recipe, device, usual=True, progress=progress)
    if not recipe.augmentation:
        recipe = recipe.model_copy(update={"augmentation": usual_augmentation(given.data)})
    with Interruption().watching() as interruption:
        return Run(recipe, folder, given, device, interruption, progress).whole()


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    save_every_s: float = 60.0,
    tensorboard: bool = False,
    progress: bool = True,
) -> Results:
    """The whole way, from a recipe: train or load, quantise, fine-tune, convert, verify, and measure on test images.

    Writes to ``folder``: recipe.yaml, results.json, accuracy.png and the checkpoints ``float``, ``qann`` and ``snn``,
    and while it trains state.pt, after every epoch and ``save_every_s`` seconds, and with ``tensorboard`` curves;
    from state.pt ``resume`` goes on, with the same results as if the run had never stopped, also where data and weights
    have moved to another folder or other ``workers`` read them. The test images are read once, at the end. The same
    recipe on the same machine writes the same results.json, bit for bit. All of several processes that ``torchrun``
    started return the results; the first of them writes.

    Raises `InvalidArgument` where the folder holds a run and ``resume`` is not asked for, or holds that of another
    recipe; `Stopped` after SIGTERM or SIGINT, the state saved.
    """
    with (
        Interruption("; continue with --resume").watching() as interruption,
        distributed.processes(device_of(recipe.device)) as device,
    ):
        check_outputs(folder)
        finished = _continued(recipe, folder, resume)
        if finished is not None:
            return finished
        log = Log(folder, tensorboard)
        run = Run(recipe, folder, materials(recipe, device, progress=progress), device, interruption, progress)
        run.state, run.log = RunState(folder, save_every_s), log
        return run.whole(resume)


def _continued(recipe: Recipe, folder: Path, resume: bool) -> Results | None:
    """The results of a run that has ended, where that is to go on; raises where a run would be lost."""
    ended, begun = folder / "results.json", RunState(folder).path
    found = ended.exists() or begun.exists()
    if found and not resume:
        state = "has ended" if ended.exists() else "can go on with --resume"
        raise InvalidArgument(f"{folder} holds a run that {state}: name another --output for a new one")
    if (folder / "recipe.yaml").exists():
        other = differences(placeless(recipe), placeless(read(str(folder / "recipe.yaml"))))
        if other:
            raise InvalidArgument(f"{folder} holds the run of another recipe: it differs in {', '.join(other)}")
    for name in ("run.json", "accuracy.png"):
        if not found and (folder / name).exists():
            raise InvalidArgument(f"{folder} holds no run, but a file {name}, which one would replace: name another")
    return _read(ended) if ended.exists() else None


def _read(path: Path) -> Results:
    """The results that a run wrote."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "snn" not in results:
        raise CheckpointError(f"{path} holds something else than the results of a run")
    return results


def placeless(recipe: Recipe) -> Recipe:
    """The recipe without what may change before a run goes on: where its files lie, and how many processes read."""
    kind, colon, path = recipe.data.rpartition(":")
    weights = recipe.weights and Path(recipe.weights).name
    return recipe.model_copy(update={"data": kind + colon + Path(path).name, "weights": weights, "workers": 0})
