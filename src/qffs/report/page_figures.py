"""Figures of a page that show values under the pointer; plotly draws them, and only this module imports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from qffs.files import Results
from qffs.report.tables import NOISES, joules

COLORS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756")
GRAY = "#8a8a8a"
LINES = (("qann", "QANN", COLORS[1], "solid"), ("full_precision", "full precision", GRAY, "dash"))
FAINT = "rgba(128,128,128,0.25)"


def library() -> str:
    """Return the script of plotly, which a page includes."""
    script: str = get_plotlyjs()
    return script


def html(figure: go.Figure, name: str) -> str:
    """Return a figure as an HTML element with an id; the page has to include `library`."""
    config = {"displayModeBar": False, "responsive": True}
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return text


def accuracy(results: Results) -> go.Figure:
    """Return accuracy and agreement after each step, and lines of the networks before conversion."""
    steps = [row["steps"] for row in results["snn"]]
    figure = _figure("time steps T", "test images (%)")
    figure.add_scatter(
        x=steps, y=_percent(row["accuracy"] for row in results["snn"]), name="SNN", line_color=COLORS[0],
        mode="lines+markers", hovertemplate="%{y:.2f} %",
    )  # fmt: skip
    if "agreement" in results["snn"][0]:
        figure.add_scatter(
            x=steps, y=_percent(row["agreement"] for row in results["snn"]), name="equal to QANN", mode="lines",
            line={"color": COLORS[2], "dash": "dot"}, hovertemplate="%{y:.2f} %",
        )  # fmt: skip
    for key, name, color, dash in LINES:
        if key in results:
            figure.add_scatter(
                x=[steps[0], steps[-1]], y=_percent([results[key]["accuracy"]] * 2), name=name, mode="lines",
                line={"color": color, "dash": dash}, hovertemplate="%{y:.2f} %",
            )  # fmt: skip
    figure.update_layout(hovermode="x unified", yaxis_range=[0, 102], xaxis_dtick=1 if len(steps) <= 20 else None)
    return figure


def activity(results: Results, units: dict[str, int]) -> go.Figure:
    """Return spikes per neuron by layer and step: one row per layer."""
    layers = [row["layer"] for row in results["layers"]]
    size = [units.get(layer, 1) * results["images"] for layer in layers]
    rows = list(zip(results["layers"], size, strict=True))
    both = [[(up + down) / n for up, down in zip(row["positive"], row["negative"], strict=True)] for row, n in rows]
    details = [
        [(up / n, down / n) for up, down in zip(row["positive"], row["negative"], strict=True)] for row, n in rows
    ]
    hover = "%{y}, step %{x}: %{customdata[0]:.3f} positive, %{customdata[1]:.3f} negative<extra></extra>"
    return _heatmap(layers, both, hover, colors="spikes per neuron", details=details)


def noise(results: Results) -> go.Figure:
    """Return the share of all neurons with each noise, by step."""
    neurons = sum(layer["neurons"] for layer in results["noise"])
    steps = list(range(1, results["steps"] + 1))
    figure = _figure("time steps T", "neurons (%)")
    for (name, title), color in zip(NOISES.items(), COLORS, strict=True):
        share = [100 * sum(layer[name][t - 1] for layer in results["noise"]) / neurons for t in steps]
        figure.add_bar(x=steps, y=share, name=title, marker_color=color, hovertemplate="%{y:.3f} %")
    figure.update_layout(barmode="stack", hovermode="x unified", xaxis_dtick=1 if len(steps) <= 20 else None)
    return figure


def noise_by_layer(results: Results) -> go.Figure:
    """Return the share of each layer's neurons with any noise, by step."""
    layers = [layer["layer"] for layer in results["noise"]]
    shares = [
        [100 * sum(layer[name][t] for name in NOISES) / layer["neurons"] for t in range(results["steps"])]
        for layer in results["noise"]
    ]
    details = [
        [tuple(100 * layer[name][t] / layer["neurons"] for name in NOISES) for t in range(results["steps"])]
        for layer in results["noise"]
    ]
    each = "<br>".join(f"{title}: %{{customdata[{i}]:.2f}} %" for i, title in enumerate(NOISES.values()))
    hover = "%{y}, step %{x}: %{z:.2f} %<br>" + each + "<extra></extra>"
    return _heatmap(layers, shares, hover, colors="neurons (%)", details=details)


def energy(results: Results) -> go.Figure:
    """Return the energy of the arithmetic per image, for each network."""
    names, values = list(results["energy_pj"]), list(results["energy_pj"].values())
    figure = _figure("energy per image (µJ)", "")
    figure.add_bar(
        x=[value / 1e6 for value in values], y=names, orientation="h", text=[joules(value) for value in values],
        marker_color=[COLORS[0] if name == "SNN" else GRAY for name in names],
        hovertemplate="%{y}: %{text}<extra></extra>", textposition="outside", cliponaxis=False,
    )  # fmt: skip
    figure.update_layout(yaxis_autorange="reversed", height=260, margin_r=70)
    return figure


def operations(results: Results) -> go.Figure:
    """Return synaptic operations by step: one row per operator with any."""
    active = [each for each in results["synapses"] if any(each["events"])]
    hover = "%{y}, step %{x}: %{z:,.0f} of %{customdata:,} synapses<extra></extra>"
    rows, counts = [each["events"] for each in active], [[each["count"]] * results["steps"] for each in active]
    layers = [each["layer"] for each in active]
    return _heatmap(layers, rows, hover, colors="synaptic operations", details=counts)


def _percent(shares: Any) -> list[float]:
    return [100 * share for share in shares]


def _heatmap(
    layers: Sequence[str],
    rows: Sequence[Sequence[float]],
    hover: str,
    *,
    colors: str,
    details: Sequence[Sequence[Any]],
) -> go.Figure:
    """Return a heat map with one row per layer and one column per step.

    hover: the text of a cell under the pointer, which may name ``details``; colors: the title of the color scale.
    """
    figure = _figure("time steps T", "")
    steps = list(range(1, len(rows[0]) + 1 if rows else 1))
    figure.add_heatmap(
        x=steps, y=list(layers), z=[list(row) for row in rows], customdata=[list(row) for row in details], zmin=0,
        colorscale="Viridis", hovertemplate=hover,
        colorbar={"title": {"text": colors, "side": "top"}, "orientation": "h", "y": 1.02, "yanchor": "bottom",
                  "thickness": 10, "len": 0.6, "x": 0, "xanchor": "left"},
    )  # fmt: skip
    figure.update_layout(
        yaxis={"autorange": "reversed", "type": "category"},
        xaxis_dtick=1 if len(steps) <= 20 else None,
        height=max(260, 150 + 22 * len(layers)),
    )
    return figure


def _figure(x: str, y: str) -> go.Figure:
    """Return axes on a transparent background, which suit a light and a dark page."""
    figure = go.Figure()
    axis = {"gridcolor": FAINT, "zerolinecolor": FAINT, "automargin": True}
    figure.update_layout(
        template="none",
        colorway=COLORS,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        height=380,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        xaxis=axis | {"title": x},
        yaxis=axis | {"title": y},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#1b1b1b"}},
    )
    return figure
