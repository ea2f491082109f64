"""Results as a table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

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
            bits = f", {results['bits']} bit" if key == "qann" and "bits" in results else ""
            table.add_row(name + bits, "", percent(results[key]["accuracy"]), "", "")
    for row in results["snn"]:
        agreement = percent(row["agreement"]) if "agreement" in row else ""
        cells = (str(row["steps"]), percent(row["accuracy"]), agreement, f"{row['spikes_per_image']:,.0f}")
        table.add_row("SNN", *cells)
    console.print(table)


def percent(share: float) -> str:
    """A share as a percentage with two decimals.

    >>> percent(0.98765)
    '98.77 %'
    """
    return f"{100 * share:.2f} %"
