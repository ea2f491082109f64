"""Figures of curves, as PNG or SVG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qffs.files import Results

if TYPE_CHECKING:
    from qffs.report.findings import Findings, Panel, Series

MARKERS = "os^Dv<>Phx*"
COLORS = [colormaps["tab20"](index) for index in (*range(0, 20, 2), *range(1, 20, 2))]
"""The ten default colors of matplotlib, then lighter ones."""
MANY = 10_000
"""The largest x of a logarithmic axis with powers of 2; above it, powers of 10, written like 10k."""
CROWD = 8
"""The largest number of curves in a panel with the legend in each panel; with more curves it is beside the panels."""


def draw(findings: Findings, title: str, path: Path) -> None:
    """Write the panels of findings side by side, as PNG or SVG after the suffix of the path."""
    columns = min(3, len(findings.panels))
    rows = math.ceil(len(findings.panels) / columns)
    figure = Figure(figsize=(1.0 + 4.6 * columns, 0.6 + 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    if len(findings.panels) > 1:  # a single panel has its own title
        figure.suptitle(title, parse_math=False)
    crowded = max(len(panel.series) for panel in findings.panels) > CROWD
    if crowded:
        figure.set_figwidth(figure.get_figwidth() + 1.8)
    drawn = [
        _panel(figure.add_subplot(rows, columns, number + 1), panel) for number, panel in enumerate(findings.panels)
    ]
    if crowded:
        handles = {
            label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    else:
        for axes in drawn:
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
    figure.savefig(path, dpi=150, format=path.suffix.removeprefix("."))


def _panel(axes: Axes, panel: Panel) -> Axes:
    axes.set_title(panel.title, fontsize=10, parse_math=False)
    axes.set(xlabel=panel.x, ylabel=panel.y)
    axes.grid(alpha=0.3)
    for number, series in enumerate(panel.series):
        _series(axes, series, number)
    if panel.log and any(x > 0 for series in panel.series for x in series.x):
        many = max(x for series in panel.series for x in series.x) > MANY
        axes.set_xscale("log", base=10 if many else 2)
        formatter = ticker.EngFormatter(sep="") if many else ticker.FuncFormatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_major_formatter(formatter)
    elif all(isinstance(x, int) for series in panel.series for x in series.x):
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if panel.bits:
        second = axes.secondary_xaxis("top", functions=(_bits, _steps))
        second.set_xlabel("equivalent bits, log2(T + 1)")
        second.xaxis.set_major_locator(ticker.MultipleLocator(1))
        second.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    return axes


def _bits(steps: Any) -> Any:
    """Return log2(T + 1): the bits of the levels 0 to T that T steps can send."""
    return np.log2(np.maximum(steps, 0) + 1)


def _steps(bits: Any) -> Any:
    return np.exp2(bits) - 1


def _series(axes: Axes, series: Series, number: int) -> None:
    color, label = COLORS[number % len(COLORS)], series.name.replace("$", r"\$")
    marker = MARKERS[number % len(MARKERS)]
    match series.style:
        case "points":
            axes.plot(series.x, series.y, marker, color=color, label=f"{label} (published)", alpha=0.8, markersize=5)
        case "level":
            axes.axhline(series.y[0], color=color, linestyle="--", label=label)
        case "steps":
            axes.plot(series.x, series.y, color=color, label=label, linewidth=1.2)
        case "line":
            axes.plot(series.x, series.y, f"{marker}-", color=color, label=label, markersize=3.5, linewidth=1.2)
    if series.spread:
        low, high = (np.array(series.y) + sign * np.array(series.spread) for sign in (-1, 1))
        axes.fill_between(series.x, low, high, color=color, alpha=0.15, linewidth=0)


def draw_accuracy(results: Results, path: Path) -> None:
    """Write a PNG: accuracy of the spiking network after each step, and lines of the networks before conversion."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["steps"] for row in results["snn"]]
    for key, name, style in (("full_precision", "full precision", "--"), ("qann", "QANN", "-")):
        if key in results:
            value = 100 * results[key]["accuracy"]
            color = "0.55" if key == "full_precision" else "tab:orange"
            axes.axhline(value, linestyle=style, color=color, label=f"{name} {value:.2f} %")
    accuracies = [100 * row["accuracy"] for row in results["snn"]]
    axes.plot(steps, accuracies, "o-", color="tab:blue", label=f"SNN, {accuracies[-1]:.2f} % at T = {steps[-1]}")
    if "agreement" in results["snn"][0]:
        agreement = [100 * row["agreement"] for row in results["snn"]]
        axes.plot(steps, agreement, ":", color="tab:green", label="predictions equal to the QANN's")
    axes.set(xlabel="time steps T", ylabel="test images (%)", ylim=(0, 102), xticks=steps)
    axes.set_title(f"{results['model']} on {results['data']}", parse_math=False)  # a name may hold dollar signs
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
