"""Results as tables in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qffs.files import Results
from qffs.graph.plan import Plan, Row
from qffs.graph.site import Kind


def show(results: Results, console: Console) -> None:
    """Print accuracy in full precision and quantized, if they were measured, and the results after each step."""
    # Plain text, because `rich` might read a name as markup.
    table = Table(title=Text(f"{results['model']} on {results['data']}, {results['images']:,} test images"))
    table.add_column("network")
    for column in ("steps", "accuracy", "equal to QANN", "spikes per image"):
        table.add_column(column, justify="right")
    for key, name in (("full_precision", "full precision"), ("qann", "QANN")):
        if key in results:
            bits = f", {_bits(results['bits'])}" if key == "qann" and "bits" in results else ""
            table.add_row(*(name + bits, "", percent(results[key]["accuracy"]), "", ""))
    for steps, cells in _together([(row["steps"], _measured(row)) for row in results["snn"]]):
        table.add_row("SNN", steps, *cells)
    for row in results.get("stopping", ()):
        cells = (f"SNN, margin {row['margin']:g}", f"mean {row['steps']:.2f}", percent(row["accuracy"]), "", "")
        table.add_row(*cells)
    console.print(table)


def show_quantized(results: Results, console: Console) -> None:
    """Print the results of `qffs.runs.quantize.quantize`: each network, and the spiking one after each step.

    agreement: with the network in full precision, on the class of each image.
    """
    table = Table(title=Text(f"{results['model']} on {results['data']}, {results['images']:,} test images"))
    table.add_column("network", no_wrap=True)
    names = ["accuracy"] if results["labeled"] else []
    for column in ("steps", *names, "agreement", "spikes per image"):
        table.add_column(column, justify="right")
    names.append("agreement")
    for row in results["networks"]:
        table.add_row(Text(row["name"]), "", *(percent(row[name]) for name in names), "")
    for steps, cells in _together(
        [
            (row["steps"], (*(percent(row[name]) for name in names), _count(row["spikes_per_image"])))
            for row in results["snn"]
        ]
    ):
        table.add_row("SNN", steps, *cells)
    console.print(table)


def _together(rows: Sequence[tuple[int, tuple[str, ...]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield steps and cells, with the numbers of consecutive steps that have the same cells in one text."""
    for cells, group in groupby(rows, key=itemgetter(1)):
        steps = [step for step, _ in group]
        yield str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}", cells


def _measured(row: Results) -> tuple[str, str, str]:
    agreement = percent(row["agreement"]) if "agreement" in row else ""
    return percent(row["accuracy"]), agreement, f"{row['spikes_per_image']:,.0f}"


def _bits(bits: int | dict[str, int | str]) -> str:
    return f"{bits} bit" if isinstance(bits, int) else "mixed precision"


def percent(share: float | None) -> str:
    """Return a share as a percentage with two decimals; an empty text for None.

    >>> percent(0.98765)
    '98.77 %'
    """
    return "" if share is None else f"{100 * share:.2f} %"


WIDE = 120
"""The width from which a terminal has room for the reason of every operator."""

STYLES = {Kind.SPIKING: "green", Kind.DIFFERENCED: "yellow", Kind.REFUSED: "bold red"}


def show_plan(plan: Plan, title: str, console: Console) -> None:
    """Print the operators of a network, and how many there are of each kind.

    A terminal gets a table that wraps; a pipe gets ``str(plan)``, one line per operator at any width.
    """
    if console.is_terminal:
        table = Table(title=Text(title), box=box.SIMPLE_HEAD, pad_edge=False)
        names = [field.name for field in dataclasses.fields(Row)]
        reasons = list(dict.fromkeys((row.kind, row.why) for row in plan.rows))
        if console.width < WIDE:  # the reasons are listed below the table, with numbers
            names = [name for name in names if name not in {"why", "source"}]
        columns = [name for name in names if any(_cell(getattr(row, name)) for row in plan.rows)]
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in plan.rows:
            cells = [_cell(getattr(row, name)) for name in columns]
            if console.width < WIDE:
                cells[-1] += f" {reasons.index((row.kind, row.why)) + 1}"
            table.add_row(*map(Text, cells), style=STYLES.get(row.kind))
        console.print(table)
        if console.width < WIDE:
            for number, (kind, why) in enumerate(reasons, 1):
                console.print(Text(f"{kind} {number}: {why}"))
        console.print(Text(plan.summary()), soft_wrap=True)
    else:
        console.print(Text(str(plan)), soft_wrap=True)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return ""  # whether values are sent; the reason says it in words
    return "x".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)


NOISES = {
    "over_fired": "occasional, over-fired",
    "under_fired": "occasional, under-fired",
    "supra_threshold": "supra-threshold",
    "sub_threshold": "sub-threshold",
    "rate_coding": "rate-coding",
}
"""The names of the noises in tables and figures."""


def show_noise(results: Results, console: Console) -> None:
    """Print the number of neurons with each noise by step, when layers settle, and accuracy without each remedy."""
    steps, neurons = results["steps"], sum(layer["neurons"] for layer in results["noise"])
    table = _table(results, f"neurons of {neurons:,} with each noise after each step", "noise")
    for step in range(steps):
        table.add_column(str(step + 1), justify="right")
    for name, title in NOISES.items():
        by_step = [sum(layer[name][step] for layer in results["noise"]) for step in range(steps)]
        table.add_row(title, *map(_count, by_step))
    console.print(table)
    table = Table(title="layers")
    for heading in ("layer", "neurons", "occasional, max", "all noises, max", "settles at, mean", "settles at, last"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    for layer in results["noise"]:
        occasional = [over + under for over, under in zip(layer["over_fired"], layer["under_fired"], strict=True)]
        noisy = [sum(layer[name][step] for name in NOISES) for step in range(steps)]
        most = (_count(max(occasional)), _count(max(noisy)))
        settled = (f"{layer['settled']:.1f}", str(layer["settled_last"]))
        table.add_row(Text(layer["layer"]), f"{layer['neurons']:,}", *most, *settled)
    console.print(table)
    table = Table(title="remedies, switched off one at a time")
    for heading in ("without", "accuracy", "equal to QANN", "output error"):
        table.add_column(heading, justify="left" if heading == "without" else "right")
    table.add_row("QANN", percent(results["qann"]["accuracy"]), "", "")
    for remedy in results["remedies"]:
        table.add_row(
            remedy["off"], percent(remedy["accuracy"]), percent(remedy["agreement"]), percent(remedy["output_error"])
        )
    console.print(table)


def show_energy(results: Results, console: Console) -> None:
    """Print operations by layer, and energy and sent bits of the SNN and of networks that do not spike."""
    table = _table(results, f"operations per image, {results['steps']} steps", "layer")
    for heading in ("operator", "synapses", "synaptic operations", "per synapse", "multiply-adds"):
        table.add_column(heading, justify="left" if heading == "operator" else "right")
    for each in results["synapses"]:
        events = sum(each["events"])
        adds = each["bits"] is not None or not each["weighted"]
        shares = f"{events / each['count']:.2f}" if events else ""
        multiplied = each["analog"] + (0 if adds else events)
        row = (_count(events if adds else 0), shares, _count(multiplied))
        table.add_row(Text(each["layer"]), each["operator"], f"{each['count']:,}", *row)
    table.add_section()
    operations = results["operations"]
    total = sum(each["count"] for each in results["synapses"])
    table.add_row(*("all", "", f"{total:,}", _count(operations["synaptic"]), "", _count(operations["multiply-adds"])))
    table.add_row(*("injected", "", "", _count(operations["injected"]), "", ""))
    console.print(table)
    table = Table(title="energy of the arithmetic, and bits sent between layers, per image")
    for heading in ("network", "energy", "share of full precision", "bits sent"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    energy, bits = results["energy_pj"], results["bits_sent"]
    for name, value in energy.items():
        sent = bits.get(name, bits["SNN, signs"] if name == "SNN" else None)
        share = f"{value / energy['full precision']:.3f}" if energy["full precision"] else ""
        table.add_row(name, joules(value), share, "" if sent is None else f"{sent:,.0f}")
    table.add_row("SNN, with addresses", "", "", f"{bits['SNN, with addresses']:,.0f}")
    console.print(table)
    positive, negative = results["spikes"]["positive"], results["spikes"]["negative"]
    console.print(f"{positive:,.0f} positive and {negative:,.0f} negative spikes per image.")
    for line in (verdict(energy), *_uncounted(results)):
        console.print(Text(line), soft_wrap=True)


def verdict(energy: dict[str, float]) -> str:
    """Return a sentence that names the networks that take more energy than the SNN, and those that do not.

    The number after each name is the energy of the SNN divided by that of the network.

    >>> verdict({"full precision": 4.0, "QANN": 2.0, "SNN": 1.0})
    'The SNN takes less energy than full precision (0.25) and QANN (0.50).'
    >>> verdict({"full precision": 4.0, "QANN, zeros skipped": 0.5, "SNN": 1.0})
    'The SNN takes less energy than full precision (0.25), but not less than QANN, zeros skipped (2.00).'
    """
    ratios = {name: energy["SNN"] / value for name, value in energy.items() if name != "SNN" and value}
    less = " and ".join(f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio < 1)
    more = " and ".join(f"{name} ({ratio:.2f})" for name, ratio in ratios.items() if ratio >= 1)
    clauses = [f"less energy than {less}"] if less else []
    clauses += [f"but not less than {more}" if less else f"not less energy than {more}"] if more else []
    return f"The SNN takes {', '.join(clauses)}." if clauses else "No operation takes energy."


def _uncounted(results: Results) -> Sequence[str]:
    names = results["uncounted"]
    return [f"Not counted: {', '.join(names)}."] if names else []


def joules(pj: float) -> str:
    """Return an energy in pJ, nJ, µJ or mJ with three digits.

    >>> joules(123.0), joules(4.5e6)
    ('123 pJ', '4.5 µJ')
    """
    for size, unit in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if pj >= size:
            return f"{pj / size:.3g} {unit}"
    return f"{pj:.3g} pJ"


def _table(results: Results, title: str, first: str) -> Table:
    # Plain text, because `rich` might read a name as markup.
    table = Table(title=Text(f"{results['model']} on {results['data']}, {results['images']:,} test images: {title}"))
    table.add_column(first, overflow="fold")
    return table


def _count(value: float) -> str:
    return "" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_rows(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, title: str, notes: Sequence[str], console: Console
) -> None:
    """Print rows under a head, and notes below them; floats have two decimals, and numbers are aligned to the right."""
    if rows:
        table = Table(title=Text(title))
        for name, cell in zip(head, rows[0], strict=True):
            table.add_column(
                Text(name),
                justify="left" if isinstance(cell, str) else "right",
                overflow="fold",
                no_wrap=name == "name",  # it is copied into the next command, so it stays in one piece
            )
        for row in rows:
            table.add_row(*(Text(_shown(cell)) for cell in row))
        console.print(table)
    for note in notes:
        console.print(Text(note))


def _shown(cell: object) -> str:
    return "" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else str(cell)
