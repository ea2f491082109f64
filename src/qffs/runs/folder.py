"""The folder of a run: checks before a run writes into it, and the results of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from qffs.errors import CheckpointError, InvalidArgument
from qffs.files import Results
from qffs.models.checkpoint import check_folder
from qffs.recipes import read
from qffs.recipes.recipe import Recipe, differences
from qffs.train.state import RunState

Stage = Literal["full precision", "quantized"]
CHECKPOINTS: dict[Stage, str] = {"full precision": "float", "quantized": "qann"}
"""The folder of the checkpoint that each stage writes."""


def check_outputs(folder: Path) -> None:
    """Raise if a run could not write into a folder, or would replace files that no run wrote."""
    for name in (*CHECKPOINTS.values(), "snn"):
        check_folder(folder / name)
    for name in ("results.json", "run.json", "accuracy.png"):
        if (folder / name).is_dir():
            raise InvalidArgument(f"{folder / name} is a folder, where a file is to be written: name another output")


def finished(recipe: Recipe, folder: Path, resume: bool) -> Results | None:
    """Return the results of the recipe's run if the folder holds them, else None.

    Raises `InvalidArgument` if a new run would replace the run in the folder, or continue that of another recipe.
    """
    results, state = folder / "results.json", RunState(folder).path
    holds_run = results.exists() or state.exists()
    if holds_run and not resume:
        status = "has ended" if results.exists() else "can continue with --resume"
        raise InvalidArgument(f"{folder} holds a run that {status}: name another --output for a new one")
    if (folder / "recipe.yaml").exists():
        keys = differences(without_paths(recipe), without_paths(read(str(folder / "recipe.yaml"))))
        if keys:
            raise InvalidArgument(f"{folder} holds the run of another recipe: it differs in {', '.join(keys)}")
    for name in ("run.json", "accuracy.png"):
        if not holds_run and (folder / name).exists():
            raise InvalidArgument(
                f"{folder} holds no run, but a file {name} that a run would replace: name another --output"
            )
    return read_results(results) if results.exists() else None


def read_results(path: Path) -> Results:
    """Return the results that a run wrote; raises `CheckpointError` if the file holds something else."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "snn" not in results:
        raise CheckpointError(f"{path} holds no results of a run")
    return results


def without_paths(recipe: Recipe) -> Recipe:
    """Return the recipe without the values that may change before a run continues: folders of files, and workers."""
    kind, colon, path = recipe.data.rpartition(":")
    weights = recipe.weights and Path(recipe.weights).name
    return recipe.model_copy(update={"data": kind + colon + Path(path).name, "weights": weights, "workers": 0})
