"""The subcommand that makes the paper's tables and figures again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qffs.cli.options import Json
from qffs.cli.printing import print_json, say

NAMES = "table3, table4, fig1, fig3, fig4, fig5, fig6, fig7, fig8 or fig9"


def paper(
    item: Annotated[str, typer.Argument(help=f"{NAMES}.")],
    recipe: Annotated[str, typer.Argument(help="Whose networks: a recipe that comes with qffs, or a file.")] = "digits",
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="What is to be otherwise: quantised.epochs=1")
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

    Example: `qffs paper fig6 cifar10_resnet20 data=cifar10:PATH quantised.epochs=2 -o runs/resnet20`
    """
    from qffs.recipes import read
    from qffs.studies.paper import make

    results = make(item, read(recipe, changes or ()), output, jobs=jobs)
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.analyses import show_rows

    show_rows(results["title"], results["head"], results["rows"], results["notes"], Console())
    written = f"{item}.json" + (f", {item}.png and {item}.svg" if results["panels"] else "")
    say(f"Wrote {written} to {output}.")
