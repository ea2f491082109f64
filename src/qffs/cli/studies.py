"""The subcommands that need many runs: ``paper``, ``compare``, and ``methods``, which lists what is compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import NETWORK, Changes, Json, Trust, print_json, say, show_rows
from qffs.errors import InvalidArgument
from qffs.recipes import SUFFIXES, names, of_network, read
from qffs.recipes.recipe import Recipe

NAMES = "table3, table4, fig1, fig3, fig4, fig5, fig6, fig7, fig8 or fig9"


def paper(
    item: Annotated[str, typer.Argument(help=f"{NAMES}.")],
    recipe: Annotated[
        str, typer.Argument(help="Recipe of the networks: one that comes with qffs, or a YAML file.")
    ] = "digits",
    changes: Changes = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("runs/paper"),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Networks to train at once.", show_default="1 per 4 cores; 1 on a GPU"),
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Reproduce a table or figure of the paper with networks trained here: JSON, a table, PNG and SVG.

    Each network is trained once and read from the folder afterward; a run that was stopped continues.

    Example: `qffs paper fig6 cifar10_resnet20 data=cifar10:PATH quantized.epochs=2 -o runs/resnet20`
    """
    from qffs.studies.paper.make import make

    results = make(item, read(recipe, changes or (), trust=trust), output, jobs=jobs)
    if json:
        print_json(results)
        return
    show_rows(results, results["title"])
    written = f"{item}.json" + (f", {item}.png and {item}.svg" if results["panels"] else "")
    say(f"Wrote {written} to {output}.")


def methods(json: Json = False) -> None:
    """List the methods that `qffs compare` can run, with the source of each and what it does.

    Example: `qffs methods`
    """
    from qffs.studies.methods import METHODS

    rows = [{**{key: getattr(m, key) for key in ("name", "title", "source", "says", "notes", "before")},
             "trained_with": m.activation.name, "extra": m.activation.extra} for m in METHODS.values()]  # fmt: skip
    if json:
        print_json(rows)
        return
    head = ["name", "source", "trained with", "what it does"]
    table = [[row["name"], row["source"], row["trained_with"], row["says"]] for row in rows]
    notes = [f"{row['title']}: {row['notes']}." for row in rows if row["notes"]]
    extras = sorted({row["extra"] for row in rows if row["extra"]})
    notes += [f"Direct training needs {extra}: pip install 'qffs[{extra}]'." for extra in extras]
    show_rows({"head": head, "rows": table, "notes": notes}, "methods")


def compare(
    recipe: Annotated[
        str, typer.Argument(metavar="NETWORK|RECIPE", help=f"A recipe that comes with qffs, a YAML file, or {NETWORK}")
    ] = "digits",
    changes: Changes = None,
    methods: Annotated[str, typer.Option(help="all, or names from qffs methods, such as qcfs,tcl.")] = "all",
    steps: Annotated[str, typer.Option(help="Numbers of time steps T.")] = "1,2,4,8,16,32,64,128",
    seeds: Annotated[int, typer.Option(help="How many times to repeat the comparison, each with another seed.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("runs/compare"),
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Compare methods on one network, each with the same data, test images and epochs of training.

    Example: `qffs compare cifar10_resnet20 data=cifar10:PATH quantized.epochs=1 --methods qffs,qcfs`
    """
    from qffs.studies.compare import compare as run_compare

    chosen = () if methods == "all" else [each.strip() for each in methods.split(",")]
    results = run_compare(
        _network_or_recipe(recipe, changes or (), trust), output, chosen, _latencies(steps), seeds=seeds
    )
    if json:
        print_json(results)
        return
    from qffs.studies.compare_findings import title

    show_rows(results, title(results))
    say(f"Wrote compare.json, compare.png and compare.svg to {output}.")


def _latencies(steps: str) -> list[int]:
    try:
        return [int(each) for each in steps.split(",")]
    except ValueError:
        raise InvalidArgument(f"--steps must be whole numbers such as 1,2,4, not {steps!r}") from None


def _network_or_recipe(name: str, changes: Sequence[str], trust: bool) -> Recipe:
    """Return the recipe of a name or file, or one for the network of a name.

    Raises `InvalidArgument` if the name is neither that of a recipe nor that of a network.
    """
    from qffs.models import MODELS, trained

    path = Path(os.path.expanduser(name))
    if name in names() or path.suffix in SUFFIXES:
        return read(name, changes, trust=trust)
    if name in MODELS or path.is_dir() or ":" in name or trained.is_name(name):
        return of_network(name, changes)
    every = [*names(), *MODELS, *trained.names()]
    near = get_close_matches(name, every) or every
    raise InvalidArgument(f"there is no recipe or network {name!r}; there is {', '.join(near)}")
