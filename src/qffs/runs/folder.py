"""The folder of a run: checks before a run writes into it, one process at a time, and results of an earlier run."""

from __future__ import annotations

import json
import os
import platform
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from qffs.errors import CheckpointError, InvalidArgument, QffsError
from qffs.files import Results, check_replaceable, lock, read_text, remove_folder, remove_temporary
from qffs.models.checkpoint import CONFIG, check_folder
from qffs.recipes import read, text, to_yaml
from qffs.recipes.recipe import Recipe, differences, spelled
from qffs.train.state import FILE, RunState

Stage = Literal["full precision", "quantized"]
CHECKPOINTS: dict[Stage, str] = {"full precision": "float", "quantized": "qann"}
"""The folder of the checkpoint that each stage writes."""

LOCK = ".qffs.lock"
"""The name of the file that is locked in a folder which a process has reserved."""

LOCKED = b"process "
"""The first bytes of a lock file, unless it is empty; by them it is told from a file of the user."""

FOLDERS = (*CHECKPOINTS.values(), "snn")
LAST = ("results.json", "run.json", "accuracy.png")
"""The files that a run writes at its end."""

REPORTED: dict[str, tuple[bytes, ...]] = {
    "noise.json": (b"{", b'"remedies"', b'"output_error"'),
    "energy.json": (b"{", b'"energy_pj"', b'"bits_sent"'),
    "report.html": (
        b"<!doctype html>",
        b'id="figure-accuracy"',
        b"spiking network of signed integrate-and-fire neurons",
    ),
}
"""The files that a report writes, and their first and other bytes, by which `check_replaceable` recognizes them."""

WRITTEN = (*FOLDERS, *LAST, *REPORTED, "recipe.yaml", FILE)
"""All that a run or its report writes in its folder, beside its lock."""


def check_outputs(folder: Path, recipe: Recipe) -> None:
    """Raise if a run of a recipe could not write into a folder, or would replace its own input."""
    for name in FOLDERS:
        check_folder(folder / name)
        check_inputs(folder / name, recipe.model, recipe.weights, recipe.teacher, recipe.teacher_weights)
    for name in LAST:
        if (folder / name).is_dir():
            raise InvalidArgument(f"{folder / name} is a folder, where a file is to be written: name another output")


def check_inputs(folder: Path, *inputs: str | None) -> None:
    """Raise `InvalidArgument` if one of the paths is the folder, is inside it, or is around it; None is no path."""
    whole = folder.resolve()
    for each in inputs:
        path = Path(os.path.expanduser(each or "")).resolve()
        around = path in whole.parents and (path / CONFIG).exists()
        if each and path.exists() and (around or whole in (path, *path.parents)):
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
        keys = differences(without_paths(recipe), without_paths(read(str(folder / "recipe.yaml"), trust=True)))
        if keys:
            raise InvalidArgument(f"{folder} holds the run of another recipe: it differs in {', '.join(keys)}")
    if not holds_run:
        _check_others(folder)
    if not results.exists():
        return None
    from qffs.runs.stored import read_results  # imported here because most runs have no earlier results

    return check_results(read_results(results), recipe, results)


def check_demo(folder: Path) -> None:
    """Raise if a demo would replace something else than an earlier demo: the run of a training, or files of others."""
    run, results, recipe = mapping_in(folder / "run.json"), folder / "results.json", folder / "recipe.yaml"
    # Earlier versions wrote only the command.
    trained = run.get("resumable", " train " in f" {run.get('command', '')} ")
    if RunState(folder).path.exists() or (trained and results.exists()):
        raise InvalidArgument(
            f"{folder} holds a run of qffs train, which a demo does not replace: name another --output"
        )
    if results.exists():
        from qffs.runs.stored import read_results

        read_results(results)
        return
    if recipe.exists() and text(str(recipe)) != to_yaml(read(str(recipe), trust=True)):
        raise InvalidArgument(f"{recipe} was not written by a run: name another --output")
    _check_others(folder)


def _check_others(folder: Path) -> None:
    """Raise `InvalidArgument` if a folder without results holds files or checkpoints that no run wrote there.

    A run writes its recipe first, and the values of its recipe into each checkpoint.
    """
    path, names = folder / "recipe.yaml", [f"a file {name}" for name in LAST if (folder / name).exists()]
    recipe = read(str(path), trust=True) if path.exists() else None
    for name in FOLDERS:
        about = mapping_in(folder / name / CONFIG).get("about")
        if about is not None and (recipe is None or not isinstance(about, dict) or _others(spelled(about), recipe)):
            names.append(f"a checkpoint {name}")
    if names:
        raise InvalidArgument(f"{folder} holds no run, but {names[0]} that a run would replace: name another --output")


def clear(folder: Path) -> None:
    """Remove the results, the report and the checkpoints of an earlier run, so that they are not taken for a new one's.

    The results are removed first: whenever this process stops, no figures are beside a network of another run.
    """
    for name in filter(lambda name: (folder / name).is_file(), (*LAST, *REPORTED)):
        begins, *contains = REPORTED.get(name, (b"",))
        with suppress(InvalidArgument):  # a file of the user under this name stays
            check_replaceable(folder / name, "", begins, *contains)
            (folder / name).unlink()
    for name in filter(lambda name: (folder / name).exists(), FOLDERS):
        remove_folder(folder / name)


def check_results(results: Results, recipe: Recipe, path: Path) -> Results:
    """Return results if they are of this recipe; raise `CheckpointError` with the name of their file if they are not.

    Earlier versions may have left the results of one run beside the recipe of another.
    """
    keys = _others(spelled(results), recipe)
    if keys:
        raise CheckpointError(f"{path} holds the results of another recipe: it differs in {', '.join(keys)}")
    return results


NOT_IN_RESULTS = ("data", "weights", "teacher_weights", "workers", "device", "full_precision")
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
    weights = {name: value and Path(value).name for name, value in recipe.weight_files.items()}
    return recipe.model_copy(update={"data": kind + colon + Path(path).name, **weights, "workers": 0})


def mapping_in(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; an empty one if there is none."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def reserved(folder: Path, command: str, *, beside: bool = False, written: Iterable[str] = WRITTEN) -> Iterator[None]:
    """Keep a folder for this process until the block ends, or until the process ends in any way.

    command: the command of this process, for the message in another one. The lock is on a file in the folder; beside:
    on one next to it, for a folder that is replaced as a whole. written: the names that are written in the folder; what
    killed processes left behind of them is removed. Raises `InvalidArgument` with the name of the process that has the
    folder, or for the root of a file system, and `QffsError` if the folder cannot be written. Where the system cannot
    lock files, a warning says so, and nothing is locked.
    """
    if folder.resolve().parent == folder.resolve():
        raise InvalidArgument(f"{folder} is the root of a file system, not the folder of a run: name another --output")
    home = folder.resolve().parent if beside else folder
    path = home / (f".{folder.resolve().name}{LOCK}" if beside else LOCK)
    new = [each for each in (home, *home.parents) if not each.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle, locked = _lock_file(path, folder, command)
    except OSError as error:
        raise QffsError(f"{folder} cannot be written: {error.strerror or error}") from error
    _handles.add(handle)
    try:
        if locked and not beside:
            remove_temporary(folder, written)
        yield
    finally:
        _handles.discard(handle)
        with suppress(OSError):
            path.unlink(missing_ok=True)  # while it is locked, so that no other process has locked it
        os.close(handle)
        for each in new:
            with suppress(OSError):  # only an empty folder is removed
                each.rmdir()


def _lock_file(path: Path, folder: Path, command: str) -> tuple[int, bool]:
    """Return the handle of a lock file that holds the name of this process, and whether the system can lock it.

    Raises `InvalidArgument` if another process has locked it, or if it is no lock file but a link or file of others.
    """
    if path.is_symlink():
        raise InvalidArgument(f"{path} is a link, where a run puts its lock: remove it, or name another --output")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows has no such flag
    try:
        locked = lock(handle)
    except BlockingIOError:
        holder = os.read(handle, 1000).decode("utf-8", "replace") or "another process"
        os.close(handle)
        message = f"{folder} is in use by {holder}: wait until it has ended, or name another --output"
        raise InvalidArgument(message) from None
    if locked and not _is_at(path, handle):  # the process before has removed the file after it was opened here
        os.close(handle)
        return _lock_file(path, folder, command)
    if not path.is_file() or os.read(handle, len(LOCKED)) not in (b"", LOCKED):
        os.close(handle)
        raise InvalidArgument(f"{path} is not the lock of a run: it is not replaced; name another --output")
    if not locked:
        warnings.warn(f"{folder} cannot be locked: make sure that no other process writes there", stacklevel=1)
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"{os.getpid()} on {platform.node()} since {since} ({command})"
    os.write(handle, (LOCKED + holder.encode("utf-8", "replace"))[:1000])
    return handle, locked


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


_handles: set[int] = set()
"""The handles of this process's locks."""


def _close_handles() -> None:
    """Close the handles that a new process has inherited: a worker must not keep a lock when its run is killed."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_handles)
