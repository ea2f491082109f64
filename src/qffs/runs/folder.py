"""The folder of a run: checks before a run writes into it, and the results of an earlier run."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from qffs.errors import CheckpointError, InvalidArgument
from qffs.files import LOCK, Results, check_replaceable, remove_folder
from qffs.models.checkpoint import CONFIG, check_folder
from qffs.recipes import read, to_yaml
from qffs.recipes.recipe import Recipe, differences, spelled
from qffs.train.state import RunState

Stage = Literal["full precision", "quantized"]
CHECKPOINTS: dict[Stage, str] = {"full precision": "float", "quantized": "qann"}
"""The folder of the checkpoint that each stage writes."""

FOLDERS = (*CHECKPOINTS.values(), "snn")
LAST = ("results.json", "run.json", "accuracy.png")
"""The files that a run writes at its end."""

REPORTED: dict[str, tuple[bytes, ...]] = {
    "noise.json": (b"{", b'"model"', b'"images"'),
    "energy.json": (b"{", b'"model"', b'"images"'),
    "report.html": (b"<!doctype html>", b"qffs"),
}
"""The files that a report writes, and their first and other bytes, by which `check_replaceable` recognizes them."""


def check_outputs(folder: Path, recipe: Recipe) -> None:
    """Raise if a run of a recipe could not write into a folder, or would replace its own input."""
    for name in FOLDERS:
        check_folder(folder / name)
        _check_inputs(folder / name, recipe.model, recipe.weights)
    for name in LAST:
        if (folder / name).is_dir():
            raise InvalidArgument(f"{folder / name} is a folder, where a file is to be written: name another output")


def check_checkpoint(folder: Path, kind: str, *inputs: str | None) -> None:
    """Raise if a command must not write a checkpoint of a kind to a folder.

    inputs: the paths of the command's inputs, or names of networks. Refused is a folder with an input, with a
    checkpoint of another kind, with files that are no checkpoint, or with the checkpoint of a run.
    """
    check_folder(folder)
    _check_inputs(folder, *inputs)
    present = _json(folder / CONFIG).get("kind", kind)
    if present != kind:
        raise InvalidArgument(f"{folder} holds a network of kind {present!r}, not {kind!r}: name another folder")
    whole = folder.resolve()
    if whole.name in FOLDERS and any((whole.parent / name).exists() for name in ("results.json", "state.pt", LOCK)):
        raise InvalidArgument(f"{folder} belongs to the run in {folder.parent}: name another folder")


def _check_inputs(folder: Path, *inputs: str | None) -> None:
    """Raise `InvalidArgument` if one of the paths is the folder, is inside it, or is around it; None is no path."""
    whole = folder.resolve()
    for each in inputs:
        path = Path(os.path.expanduser(each)).resolve() if each and os.path.exists(os.path.expanduser(each)) else None
        if path is not None and (
            whole in (path, *path.parents) or (path in whole.parents and (path / CONFIG).exists())
        ):
            raise InvalidArgument(f"{folder} would replace {each}, which is read: name another output")


def finished(recipe: Recipe, folder: Path, resume: bool) -> Results | None:
    """Return the results of the recipe's run if the folder holds them, else None.

    Raises `InvalidArgument` if a new run would replace the run in the folder or files of others, or would continue the
    run of another recipe.
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
    if not holds_run:
        _check_others(folder)
    return read_results(results, recipe) if results.exists() else None


def check_demo(folder: Path) -> None:
    """Raise if a demo would replace something else than an earlier demo: the run of a training, or files of others."""
    run, results, recipe = _json(folder / "run.json"), folder / "results.json", folder / "recipe.yaml"
    # Earlier versions wrote only the command.
    trained = run.get("resumable", " train " in f" {run.get('command', '')} ")
    if RunState(folder).path.exists() or (trained and results.exists()):
        raise InvalidArgument(
            f"{folder} holds a run of qffs train, which a demo does not replace: name another --output"
        )
    if results.exists():
        read_results(results)
        return
    if recipe.exists() and recipe.read_text(encoding="utf-8", errors="replace") != to_yaml(read(str(recipe))):
        raise InvalidArgument(f"{recipe} was not written by a run: name another --output")
    _check_others(folder)


def _check_others(folder: Path) -> None:
    """Raise `InvalidArgument` if a folder without results holds files or checkpoints that no run wrote there.

    A run writes its recipe first, and the values of its recipe into each checkpoint.
    """
    path, names = folder / "recipe.yaml", [f"a file {name}" for name in LAST if (folder / name).exists()]
    recipe = read(str(path)) if path.exists() else None
    for name in FOLDERS:
        about = _json(folder / name / CONFIG).get("about")
        if about is not None and (recipe is None or not isinstance(about, dict) or _others(spelled(about), recipe)):
            names.append(f"a checkpoint {name}")
    if names:
        raise InvalidArgument(f"{folder} holds no run, but {names[0]} that a run would replace: name another --output")


def clear(folder: Path) -> None:
    """Remove the results, the report and the checkpoints of an earlier run, so that they are not taken for a new one's.

    The results are removed first: whenever this process stops, no figures are beside a network of another run.
    """
    for name in (*LAST, *REPORTED):
        begins, *contains = REPORTED.get(name, (b"",))
        with suppress(InvalidArgument):  # a file of the user under this name stays
            check_replaceable(folder / name, "", begins, *contains)
            (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        remove_folder(folder / name)


def read_results(path: Path, recipe: Recipe | None = None) -> Results:
    """Return the results that a run wrote.

    Raises `CheckpointError` if the file holds something else, or results of another recipe.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "snn" not in results:
        raise CheckpointError(f"{path} holds no results of a run")
    keys = [] if recipe is None else _others(spelled(results), without_paths(recipe))
    if keys:
        raise CheckpointError(f"{path} holds the results of another recipe: it differs in {', '.join(keys)}")
    return results


NOT_IN_RESULTS = ("data", "weights", "workers", "device", "full_precision")
"""The keys of a recipe that results have under the same name with other values, or that may change in a run."""


def _others(results: Results, recipe: Recipe) -> list[str]:
    """Return the keys of a recipe whose values are others in results; keys that one of them lacks are not compared."""

    def other(here: Any, there: Any) -> bool:
        if isinstance(here, dict) and isinstance(there, dict):
            return any(other(here[key], there[key]) for key in here.keys() & there.keys())
        return bool(here != there)

    values = recipe.model_dump(mode="json", exclude=set(NOT_IN_RESULTS))
    return [key for key, value in values.items() if key in results and other(value, results[key])]


def without_paths(recipe: Recipe) -> Recipe:
    """Return the recipe without the values that may change before a run continues: folders of files, and workers."""
    kind, colon, path = recipe.data.rpartition(":")
    weights = recipe.weights and Path(recipe.weights).name
    return recipe.model_copy(update={"data": kind + colon + Path(path).name, "weights": weights, "workers": 0})


def _json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
