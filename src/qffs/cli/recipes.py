"""The subcommands ``qffs recipes list``, ``show`` and ``validate``; torch and kornia are imported only when needed."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from qffs import recipes
from qffs.cli.options import Command, Json, Trust, print_json
from qffs.errors import InvalidArgument
from qffs.recipes.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List, show and check recipes; a recipe holds everything that decides a training run.",
)

COLUMNS = ("name", "model", "data", "bits", "epochs", "about")
WIDE = 140
"""Characters per line from which there is room for all columns."""

WHICH = "The name of a recipe that comes with qffs, or a .yaml file."
Which = Annotated[str, typer.Argument(help=WHICH, metavar="NAME|FILE")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the recipes that come with qffs.

    Example: `qffs recipes list`
    """
    rows = [_row(name, recipes.read(name)) for name in recipes.names()]
    print_json(rows) if json else _show(rows)


@app.command(cls=Command)
def show(recipe: Which) -> None:
    """Print the YAML of a recipe, so that you can copy and change it.

    Example: `qffs recipes show digits > mine.yaml`
    """
    typer.echo(recipes.text(recipe), nl=False)


@app.command(cls=Command)
def validate(
    recipe: Which,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values that replace those of the recipe.", metavar="KEY=VALUE")
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Check a recipe and print all its mistakes; the exit code is 2 if there is one.

    Whether files of data and weights exist is not checked, and no network is built.

    Example: `qffs recipes validate mine.yaml quantized.epochs=3`
    """
    mistakes = _mistakes(recipe, overrides or (), trust)
    if json:
        print_json({"recipe": recipe, "valid": not mistakes, "mistakes": mistakes})
    elif mistakes:
        for mistake in mistakes:
            typer.echo(f"{recipe}, {mistake}", err=True)
    else:
        typer.echo(f"{recipe} is valid")
    if mistakes:
        raise typer.Exit(2)


def _mistakes(recipe: str, overrides: Any, trust: bool) -> list[str]:
    attempt = recipes.attempt(recipe, overrides, trust=trust)
    if not isinstance(attempt, Recipe):
        return attempt
    try:
        if attempt.augmentation:
            from qffs.runs.inputs import check_augmentation

            check_augmentation(attempt.augmentation)
    except InvalidArgument as error:
        return [str(error)]
    return []


def _row(name: str, recipe: Recipe) -> dict[str, Any]:
    return {
        "name": name,
        "model": recipe.model,
        "data": recipe.data,
        "bits": recipe.bits,
        "output": recipe.output,
        "epochs": {"full_precision": recipe.full_precision.epochs, "quantized": recipe.quantized.epochs},
        "about": recipes.about(name),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    names = COLUMNS if console.width >= WIDE else tuple(name for name in COLUMNS if name not in {"model", "data"})
    table = Table(*names)
    for row in rows:
        cells = {**row, "bits": _bits(row), "epochs": " + ".join(map(str, row["epochs"].values()))}
        table.add_row(*(Text(str(cells[name])) for name in names))  # plain text: rich reads brackets as markup
    console.print(table)


def _bits(row: dict[str, Any]) -> str:
    return f"{row['bits'] if isinstance(row['bits'], int) else 'mixed'}, {row['output']}"
