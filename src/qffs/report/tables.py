"""Results as a table in the terminal."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from operator import itemgetter

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
    shown = [(row["steps"], _measured(row)) for row in results["snn"]]
    for cells, alike in groupby(shown, key=itemgetter(1)):
        steps = [step for step, _ in alike]
        table.add_row("SNN", str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}", *cells)
    for row in results.get("stopping", ()):
        table.add_row(f"SNN, margin {row['margin']:g}", f"mean {row['steps']:.2f}", percent(row["accuracy"]), "", "")
    console.print(table)


def _measured(row: Results) -> tuple[str, str, str]:
    agreement = percent(row["agreement"]) if "agreement" in row else ""
    return percent(row["accuracy"]), agreement, f"{row['spikes_per_image']:,.0f}"


def _bits(bits: int | dict[str, int | str]) -> str:
    return f"{bits} bit" if isinstance(bits, int) else "mixed precision"


def percent(share: float | None) -> str:
    """A share as a percentage with two decimals; nothing where there is none.

    >>> percent(0.98765)
    '98.77 %'
    """
    return "" if share is None else f"{100 * share:.2f} %"


WIDE = 120
"""Columns from which a terminal has room for the reason of every call."""

STYLES = {Kind.SPIKING: "green", Kind.DIFFERENCED: "yellow", Kind.REFUSED: "bold red"}


def show_plan(plan: Plan, title: str, console: Console) -> None:
    """Print every call of a network, and how many there are of each kind.

    A terminal gets a table that wraps; a pipe gets ``str(plan)``, one line a call whatever the width.
    """
    if console.is_terminal:
        table = Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False)
        names = [field.name for field in dataclasses.fields(Row)]
        told = dict.fromkeys((row.kind, row.why) for row in plan.rows)
        if console.width < WIDE:  # each reason once, below, by its number
            names = [name for name in names if name not in {"why", "source"}]
        shown = [name for name in names if any(_cell(getattr(row, name)) for row in plan.rows)]
        for name in shown:
            table.add_column(name, overflow="fold")
        for row in plan.rows:
            cells = [_cell(getattr(row, name)) for name in shown]
            if console.width < WIDE:
                cells[-1] += f" {list(told).index((row.kind, row.why)) + 1}"
            table.add_row(*map(Text, cells), style=STYLES.get(row.kind))
        console.print(table)
        if console.width < WIDE:
            for number, (kind, why) in enumerate(told, 1):
                console.print(Text(f"{kind} {number}: {why}"))
        console.print(Text(plan.summary()), soft_wrap=True)
    else:
        console.print(Text(str(plan)), soft_wrap=True)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return ""  # whether values are sent, which is said in words too
    return "x".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
