"""The subcommand that makes the paper's tables and figures again."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import NETWORK, Json, print_json, say
from qffs.errors import InvalidArgument

NAMES = "table3, table4, fig1, fig3, fig4, fig5, fig6, fig7, fig8 or fig9"


def paper(
    item: Annotated[str, typer.Argument(help=f"{NAMES}.")],
    recipe: Annotated[str, typer.Argument(help="Whose networks: a recipe that comes with qffs, or a file.")] = "digits",
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What is to be otherwise: quantized.epochs=1")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("runs/paper"),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Networks to train at once.", show_default="1 for every 4 cores; 1 on a GPU"),
    ] = None,
    json: Json = False,
) -> None:
    """Make a table or figure of the paper again, from networks trained here: JSON, a table, PNG and SVG.

    Each network is trained once and taken from the folder afterwards; a run that was stopped goes on.

    Example: `qffs paper fig6 cifar10_resnet20 data=cifar10:PATH quantized.epochs=2 -o runs/resnet20`
    """
    from qffs.recipes import read
    from qffs.studies.paper.make import make

    results = make(item, read(recipe, changes or ()), output, jobs=jobs)
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show_rows

    show_rows(results["title"], results["head"], results["rows"], results["notes"], Console())
    written = f"{item}.json" + (f", {item}.png and {item}.svg" if results["panels"] else "")
    say(f"Wrote {written} to {output}.")


def methods(json: Json = False) -> None:
    """List the methods that `qffs compare` knows, with who published them and what they do.

    Example: `qffs methods`
    """
    from qffs.studies.methods import METHODS

    rows = [{**{key: getattr(m, key) for key in ("name", "title", "source", "says", "notes", "before")},
             "trained_with": m.activation.name, "extra": m.activation.extra} for m in METHODS.values()]  # fmt: skip
    if json:
        print_json(rows)
        return
    from rich.console import Console

    from qffs.report.tables import show_rows

    head = ["method", "source", "trained with", "what it does"]
    table = [[row["name"], row["source"], row["trained_with"], row["says"]] for row in rows]
    notes = [f"{row['title']}: {row['notes']}." for row in rows if row["notes"]]
    extras = sorted({row["extra"] for row in rows if row["extra"]})
    notes += [f"Direct training needs {extra}: pip install 'qffs[{extra}]'." for extra in extras]
    show_rows("methods", head, table, notes, Console())


def compare(
    recipe: Annotated[
        str, typer.Argument(metavar="NETWORK|RECIPE", help=f"A recipe that comes with qffs, a file, or {NETWORK}")
    ] = "digits",
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What is to be otherwise: quantized.epochs=1")
    ] = None,
    methods: Annotated[str, typer.Option(help="all, or some of those that qffs methods lists, as qcfs,tcl.")] = "all",
    steps: Annotated[str, typer.Option(help="Latencies T.")] = "1,2,4,8,16,32,64,128",
    seeds: Annotated[int, typer.Option(help="How many times all is done, each with a seed of its own.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("runs/compare"),
    json: Json = False,
) -> None:
    """Compare methods on one network: the same data, images and epochs of training for each.

    Example: `qffs compare cifar10_resnet20 data=cifar10:PATH weights=PATH quantized.epochs=1 --methods qffs,qcfs`
    """
    from qffs.models import MODELS
    from qffs.recipes import SUFFIXES, names, of_network, read
    from qffs.studies.compare import compare as run_compare

    try:
        latencies = [int(each) for each in steps.split(",")]
    except ValueError:
        raise InvalidArgument(f"--steps must be whole numbers such as 1,2,4, not {steps!r}") from None
    chosen = () if methods == "all" else [each.strip() for each in methods.split(",")]
    path = Path(recipe)
    network = recipe in MODELS or path.is_dir() or (":" in recipe and path.suffix not in SUFFIXES)
    if not network and recipe not in names() and path.suffix not in SUFFIXES:
        near = get_close_matches(recipe, [*names(), *MODELS]) or [*names(), *MODELS]
        raise InvalidArgument(f"there is no recipe or network {recipe!r}; there is {', '.join(near)}")
    asked = (of_network if network and recipe not in names() else read)(recipe, changes or ())
    results = run_compare(asked, output, chosen, latencies, seeds)
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show_rows
    from qffs.studies.compare_findings import title

    show_rows(title(results), results["head"], results["rows"], results["notes"], Console())
    say(f"Wrote compare.json, compare.png and compare.svg to {output}.")
