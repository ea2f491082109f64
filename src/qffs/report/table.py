"""Results as a table in the terminal."""

from __future__ import annotations

import dataclasses
from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qffs.graph.plan import Plan, Row
from qffs.graph.rules import Kind
from qffs.report.results import Results


def show(results: Results, console: Console) -> None:
    """Print full-precision and quantised accuracy, where they were measured, and a row for each step."""
    # As plain text: a name may hold what `rich` would take for markup.
    table = Table(title=Text(f"{results['model']} on {results['data']}, {results['images']:,} test images"))
    table.add_column("network")
    for column in ("steps", "accuracy", "equal to QANN", "spikes an image"):
        table.add_column(column, justify="right")
    for key, name in (("full_precision", "full precision"), ("qann", "QANN")):
        if key in results:
            bits = f", {_bits(results['bits'])}" if key == "qann" and "bits" in results else ""
            table.add_row(name + bits, "", percent(results[key]["accuracy"]), "", "")
    for row in results["snn"]:
        agreement = percent(row["agreement"]) if "agreement" in row else ""
        cells = (str(row["steps"]), percent(row["accuracy"]), agreement, f"{row['spikes_per_image']:,.0f}")
        table.add_row("SNN", *cells)
    console.print(table)


def _bits(bits: int | dict[str, int | str]) -> str:
    return f"{bits} bit" if isinstance(bits, int) else "mixed precision"


def percent(share: float) -> str:
    """A share as a percentage with two decimals.

    >>> percent(0.98765)
    '98.77 %'
    """
    return f"{100 * share:.2f} %"


STYLES = {Kind.SPIKING: "green", Kind.DIFFERENCED: "yellow", Kind.REFUSED: "bold red"}


def show_plan(plan: Plan, title: str, console: Console) -> None:
    """Print every call of a network, and how many there are of each kind.

    A terminal gets a table that wraps; a pipe gets ``str(plan)``, one line a call whatever the width.
    """
    if console.is_terminal:
        table = Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False)
        shown = [
            field.name for field in dataclasses.fields(Row) if any(_cell(getattr(row, field.name)) for row in plan.rows)
        ]
        for name in shown:
            table.add_column(name, overflow="fold")
        for row in plan.rows:
            table.add_row(*(Text(_cell(getattr(row, name))) for name in shown), style=STYLES.get(row.kind))
        console.print(table)
    else:
        console.print(Text(str(plan)), soft_wrap=True)
    console.print(Text(count(plan)), soft_wrap=True)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return ""  # whether values are sent, which is said in words too
    return "x".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)


def count(plan: Plan) -> str:
    """How many calls there are of each kind, in one line that ends with the refused ones."""
    kinds = Counter(row.kind for row in plan.rows)
    neurons, refused = kinds.pop(Kind.SPIKING, 0), kinds.pop(Kind.REFUSED, 0)
    rest = [f"{kinds[kind]} {kind.value}" for kind in Kind if kind in kinds]
    layers = f"{neurons} layer{'' if neurons == 1 else 's'} of neurons"
    return ", ".join([layers, *rest, f"{refused or 'nothing'} refused"])
