"""Measure how the time of a simulation grows with steps, images, depth and width.

    python benchmarks/growth.py runs/cifar10_resnet18_narrow/qann --data cifar10:PATH --png growth.png

Steps and images are varied for the network of a checkpoint. Depth and width are varied for residual networks with
random weights, whose batch norms and step sizes are calibrated on training images. They fire more than trained
networks, and more with depth. Trained networks of several depths come from further checkpoints (``--deeper``). Each
time is the minimum over some turns; simulation and network run in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import processor
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rivals import with_neurons
from torch import Tensor, nn

import qffs
from qffs.data import load as load_data
from qffs.models import build
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork

STEPS, BATCH = 8, 16
DEPTHS, WIDTHS = (20, 32, 56, 110), (8, 16, 32, 64)

Point = tuple[SpikingNetwork, Tensor, int]


def calibrated(model: nn.Module, x: Tensor) -> SpikingNetwork:
    """Return a spiking network with random weights and with the batch norm statistics of these images."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(x)
    qann = qffs.calibrate(qffs.quantize(model.eval(), 2, example=x[:2]), [x], "lsq")
    return channels_last(qffs.to_spiking(qann))


def channels_last(snn: SpikingNetwork) -> SpikingNetwork:
    return snn.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def curves(
    path: str, deeper: Sequence[str], x: Tensor, calibration: Tensor
) -> dict[str, dict[int, Callable[[], Point]]]:
    """Return functions that make a network, images and steps, by the quantity that grows and by its size."""

    def trained(steps: int, path: str = path) -> SpikingNetwork:
        return channels_last(qffs.to_spiking(qffs.load(path, "qann").network, min(4, steps)))

    def residual(model: Callable[[], nn.Module]) -> Callable[[], Point]:
        return lambda: (calibrated(model(), calibration), x[:BATCH], STEPS)

    layers = {len(list(trained(4, each).neurons())): each for each in deeper}
    if len(layers) < len(deeper):
        raise SystemExit("two of the networks that grow in depth have equally many layers of neurons")
    points = {
        "steps": {t: (lambda t=t: (trained(t), x[:BATCH], t)) for t in (1, 2, 4, 8, 16, 32, 64)},
        "images": {b: (lambda b=b: (trained(4), x[:b], STEPS)) for b in (1, 2, 4, 8, 16, 32, 64, 128)},
        "depth": {d: residual(lambda d=d: build(f"cifar_resnet{d}")) for d in DEPTHS},
        "width": {w: residual(lambda w=w: build("cifar_resnet18", width=w)) for w in WIDTHS},
        "layers, trained": {d: (lambda d=d: (trained(4, layers[d]), x[:BATCH], STEPS)) for d in sorted(layers)},
    }
    return {what: sizes for what, sizes in points.items() if sizes}


def measured(point: Point, turns: int) -> dict[str, float]:
    """Return the seconds of the simulation and of the full-precision network's forward pass, and the spikes."""
    snn, x, steps = point
    network = with_neurons(snn, lambda _: nn.ReLU())
    runs = {"simulation": lambda: snn(x, steps=steps), "network": lambda: network(x)}
    least = dict.fromkeys(runs, float("inf"))
    spikes = 0

    def count(_: str, of_layer: Tensor) -> None:
        nonlocal spikes
        spikes += int(of_layer.sum())

    snn(x, steps=steps, counter=count)
    with torch.no_grad():
        for _ in range(turns + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                least[name] = min(least[name], time.perf_counter() - start)
    return least | {"spikes": spikes}


def draw(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Draw the times of each curve, with the ratio at each point."""
    columns = math.ceil(len(results) / 2)
    figure = Figure(figsize=(5.5 * columns, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, columns).flat
    for unused in panels[len(results) :]:
        unused.set_axis_off()
    for axes, (what, points) in zip(panels, results.items(), strict=False):
        sizes = list(points)
        for name, style in (("simulation", "o-"), ("network", "s--")):
            axes.plot(sizes, [1e3 * points[size][name] for size in sizes], style, label=name)
        for size in sizes:
            ratio = points[size]["simulation"] / points[size]["network"]
            axes.annotate(f"{ratio:.1f}", (size, 1e3 * points[size]["simulation"]), (0, 6), textcoords="offset points")
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel="ms", xticks=sizes, xticklabels=sizes)
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.margins(y=0.2)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"Time of a simulation beside that of the network in full precision, {processor()}")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="How the time of a simulation grows.")
    parser.add_argument("qann", help="the folder of a quantized network")
    parser.add_argument("--data", required=True, help="the data that it was trained on, as for qffs simulate")
    parser.add_argument("--deeper", nargs="*", default=[], help="the folders of quantized networks that grow in depth")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data = load_data(arguments.data, in_memory_gib=0)

    def read(images: Any, count: int) -> Tensor:
        return data.normalize(images.read(torch.arange(count))).contiguous(memory_format=torch.channels_last)

    points = curves(arguments.qann, arguments.deeper, read(data.test, 128), read(data.train, 64))
    results: dict[str, dict[int, dict[str, float]]] = {what: {} for what in points}
    with track("growth", sum(map(len, points.values())), "points") as bar:
        for what, sizes in points.items():
            for size, point in sizes.items():
                results[what][size] = measured(point(), arguments.turns)
                bar.advance(note=f"{what} {size}")
    for what, sizes in results.items():
        for size, least in sizes.items():
            ratio = least["simulation"] / least["network"]
            spike = 1e9 * least["simulation"] / max(1, least["spikes"])
            print(
                f"{what} {size}: {1e3 * least['simulation']:.1f} ms, {ratio:.2f} of the network; "
                f"{least['spikes'] / 1e6:.2f} million spikes, {spike:.1f} ns each"
            )
    if arguments.json:
        about = {"device": processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps(about | {"curves": results}, indent=2) + "\n", encoding="utf-8")
    if arguments.png:
        draw(results, arguments.png)


if __name__ == "__main__":
    main()
