"""The check that a saved run was on the present images, labels and teacher."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qffs.data import load as load_data
from qffs.errors import DataError, InvalidArgument
from qffs.recipes.recipe import Recipe
from qffs.runs.stored import read_origin


def check_same(saved: Mapping[str, Any], present: Mapping[str, str], data: str, folder: Path) -> None:
    """Raise `InvalidArgument` if the saved hashes of a run are those of other images or labels, or another teacher.

    data, folder: the names of the present data and of the run's folder in messages. Warn if the run is from an earlier
    version, whose hashes say nothing about images.
    """
    present = dict(present)
    if saved.get("teacher") != present.pop("teacher", saved.get("teacher")):
        raise InvalidArgument(f"{folder} holds a run with another teacher")
    if any(saved.get(key, value) != value for key, value in present.items()):
        raise InvalidArgument(f"{folder} holds a run on other images or labels than {data}")
    if not present.keys() <= saved.keys():
        warnings.warn(
            f"{folder} holds a run of an earlier version, which did not save which images it was on: "
            f"check yourself that they are those of {data}",
            stacklevel=2,
        )


def check_ended(recipe: Recipe, folder: Path, *, progress: bool) -> None:
    """Check as `check_same` that a run that has ended was on the images of its recipe.

    Warn if these cannot be listed: the results are as good as before, and perhaps all that is left.
    """
    saved = read_origin(folder / "run.json").get("fingerprints", {})
    try:
        present = listed(recipe.data, recipe.size, progress=progress)
    except DataError as error:
        warnings.warn(
            f"these are the results of an earlier run; its images are not here to compare: {error}", stacklevel=2
        )
    else:
        check_same(saved, present, recipe.data, folder)


def listed(data: str, size: int | None, *, progress: bool) -> dict[str, str]:
    """Return the fingerprints of the data with this name, whose images are listed and not decoded."""
    return load_data(data, size, in_memory_gib=0, progress=progress).fingerprints
