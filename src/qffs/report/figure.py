"""Accuracy against steps, as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qffs.report.results import Results


def draw(results: Results, path: Path) -> None:
    """Write a PNG: the spiking network's accuracy by step, beside the lines of the networks it came from."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["steps"] for row in results["snn"]]
    for key, name, style in (("full_precision", "full precision", "--"), ("qann", "QANN", "-")):
        if key in results:
            value = 100 * results[key]["accuracy"]
            colour = "0.55" if key == "full_precision" else "tab:orange"
            axes.axhline(value, linestyle=style, color=colour, label=f"{name} {value:.2f} %")
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
