"""How results reach the terminal."""

from __future__ import annotations

from typing import Any

import typer


def show(results: dict[str, Any], json: bool) -> None:
    """The measured networks as a table, or as JSON."""
    if json:
        print_json(results)
        return
    from rich.console import Console

    from qffs.report.tables import show

    show(results, Console())


def print_json(results: Any) -> None:
    """Plain data as JSON and nothing else."""
    from qffs.report.results import to_json

    typer.echo(to_json(results), nl=False)


def say(sentence: str) -> None:
    """One line on standard output."""
    typer.echo(sentence)
