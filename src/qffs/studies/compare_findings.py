"""The results of `qffs compare` as a table and panels."""

from __future__ import annotations

from qffs.files import Results
from qffs.report.findings import Cell, Findings, Panel, Series

PERCENT = "test images (%)"
WITHIN = 0.01 + 1e-9
"""One point of accuracy, with room for rounding: a difference of one point is not exact in binary."""
MICROJOULE = 1e-6
"""Microjoules per picojoule."""


def title(results: Results) -> str:
    """Return the title of a comparison: network, data, test images, and the number of seeds if there are several."""
    seeds = len(results["seeds"])
    repeated = f", {seeds} seeds" if seeds > 1 else ""
    return f"{results['model']} on {results['data']}, {results['images']:,} test images{repeated}"


def findings(results: Results) -> Findings:
    """Return a table of accuracy by latency, and panels of accuracy against latency, spikes and energy."""
    latencies, several = results["latencies"], len(results["seeds"]) > 1
    rows: list[list[Cell]] = []
    for each in results["methods"]:
        points = {point["latency"]: point for point in each["by_latency"]}
        accuracies = [_accuracy(points.get(T), several) for T in latencies]
        trained = {"accuracy": each["trained_accuracy"], "spread": each["trained_spread"]}
        rows.append([each["title"], _accuracy(trained, several), reached(each), *accuracies])
    level = Series("full precision", [], [100 * results["full_precision"]["accuracy"]], "level")
    time = "time steps T, those before a read-out included"
    notes = [f"{each['title']}: {each['notes']}." for each in results["methods"] if each["notes"]]
    notes += [f"{each['title']} has no read-out at these latencies." for each in results["methods"]
              if not each["by_latency"]]  # fmt: skip
    panels = [
        Panel("accuracy by latency", time, PERCENT, [*_against(results, "latency"), level], log=True),
        Panel("accuracy by spikes", "spikes per image", PERCENT, _against(results, "spikes"), log=True),
        Panel("accuracy by energy", "energy per image (µJ)", PERCENT, _against(results, "energy"), log=True),
    ]
    return Findings(
        ["method", "as trained", "within 1 point", *(f"T = {T}" for T in latencies)],
        rows,
        panels,
        notes + [f"{each['title']} is left out: {each['why']}." for each in results["left_out"]],
    )


def reached(method: Results) -> int | None:
    """Return the first latency from which a method stays within one point of its trained accuracy; None without one.

    >>> points = [{"latency": T, "accuracy": a} for T, a in ((1, 0.5), (2, 0.8), (4, 0.79), (8, 0.795))]
    >>> reached({"trained_accuracy": 0.8, "by_latency": points})
    2
    """
    near = None
    for point in reversed(method["by_latency"]):
        if point["accuracy"] < method["trained_accuracy"] - WITHIN:
            break
        near = int(point["latency"])
    return near


def energies(results: Results) -> list[list[Cell]]:
    """Return for each method its title and the energy per image at each latency, in µJ."""
    rows: list[list[Cell]] = []
    for each in results["methods"]:
        points = {point["latency"]: MICROJOULE * point["energy_pj"] for point in each["by_latency"]}
        rows.append([each["title"], *(points.get(T) for T in results["latencies"])])
    return rows


def _accuracy(point: Results | None, several: bool) -> Cell:
    if point is None:
        return None
    if not several:
        return 100.0 * float(point["accuracy"])
    return f"{100 * point['accuracy']:.2f} ± {100 * point['spread']:.2f}"


def _against(results: Results, quantity: str) -> list[Series]:
    """Return the accuracy of each method against a quantity, without points at 0: the axis is logarithmic."""
    curves = []
    for each in results["methods"]:
        points = [(_value(point, quantity), point) for point in each["by_latency"]]
        points = [(x, point) for x, point in points if x > 0]
        spread = [100 * point["spread"] for _, point in points if point["spread"] is not None]
        accuracies = [100 * point["accuracy"] for _, point in points]
        if points:
            curves.append(Series(each["title"], [x for x, _ in points], accuracies, spread=spread))
    return curves


def _value(point: Results, quantity: str) -> int | float:
    value: int | float = MICROJOULE * point["energy_pj"] if quantity == "energy" else point[quantity]
    return value if quantity != "spikes" or value >= 1 else 0
