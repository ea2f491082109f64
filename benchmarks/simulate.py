"""Measure the time of a simulation of T steps over that of one forward pass of the full-precision network.

    python benchmarks/simulate.py runs/cifar10_resnet18_narrow/qann --data cifar10:PATH --json simulate.json

The network is that of a checkpoint of a quantized network, and the images are test images: the work depends on when
neurons fire, so the benchmark needs trained weights and real images. These variants run in one process and in turn: the
network with ReLUs in the place of neurons, batch norms folded (``network``); ``snn(x, steps=T)`` in the network's own
type and with ``precision="exact"``; with ``--reference``, the reference simulation; and other libraries (`rivals.py`)
that are installed. A ratio is the time of a variant over that of the network in the same turn: the median over the
turns, with the smallest and the largest. Predictions after each step are compared with the reference's. On a GPU, the
network (also as a CUDA graph) and the simulation in bfloat16 are compared too.

``--memory`` measures instead the peak memory of the network and of a simulation, each in a separate process, on the
CPU.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import processor
from memory import peak
from rich.console import Console
from rich.table import Table
from rivals import RIVALS, with_neurons
from torch import Tensor, nn

from qffs import load, to_spiking
from qffs.data import load as load_data
from qffs.progress import track
from qffs.spiking.network import SpikingNetwork

NETWORK, OWN, EXACT, REFERENCE = "network", "simulation", "simulation, exact", "reference"
CPU = torch.device("cpu")

Variants = dict[str, Callable[[Tensor, int], Tensor]]
"""Functions from images and T to the output, by name."""


def own_variants(snn: SpikingNetwork, with_reference: bool) -> Variants:
    """Return the full-precision network and the simulations of this library."""
    network = with_neurons(snn, lambda _: nn.ReLU())
    variants: Variants = {
        NETWORK: lambda x, _: network(x),
        OWN: lambda x, steps: snn(x, steps=steps),
        EXACT: lambda x, steps: snn(x, steps=steps, precision="exact"),
    }
    return variants | ({REFERENCE: lambda x, steps: snn(x, steps=steps, backend="reference")} if with_reference else {})


def on_a_gpu(snn: SpikingNetwork, x: Tensor) -> Variants:
    """Return variants for GPUs: bfloat16, and the network as a CUDA graph, which launches all kernels at once."""
    half = copy.deepcopy(snn).bfloat16()
    network, held = with_neurons(half, lambda _: nn.ReLU()), x.bfloat16()
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(aside):  # a first run, in which libraries choose their kernels
            network(held)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            output = network(held)

    def replayed(x: Tensor, _: int) -> Tensor:
        held.copy_(x)
        graph.replay()
        return output

    return {
        f"{NETWORK}, bfloat16": lambda x, _: network(x.bfloat16()),
        f"{NETWORK}, bfloat16, CUDA graph": replayed,
        f"{OWN}, bfloat16": lambda x, steps: half(x.bfloat16(), steps=steps),
    }


def rivals(snn: SpikingNetwork) -> Variants:
    """Return the other libraries that are installed; print a line on each of the others."""
    built: Variants = {}
    for name, (package, build) in RIVALS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name} is skipped: {package} is not installed", file=sys.stderr)
        else:
            built[name] = build(snn)
    return built


def measured(variants: Variants, x: Tensor, steps: int, turns: int) -> dict[str, Any]:
    """Return the seconds of each variant in each turn, and their ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad(), track(f"{steps} steps", (turns + 1) * len(variants), "runs") as bar:
        for turn in range(turns + 1):  # the first is not counted, because kernels are compiled in it
            names = list(variants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                finished(x.device)
                start = time.perf_counter()
                variants[name](x, steps)
                finished(x.device)
                seconds[name].append(time.perf_counter() - start)
                bar.advance(note=name)
    counted = {name: each[1:] for name, each in seconds.items()}
    return {"steps": steps, "seconds": counted, "ratios": ratios(counted)}


def finished(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return the ratios of each variant's times to the network's in the same turn."""
    by_name = {}
    for name, own in seconds.items():
        each = [a / b for a, b in zip(own, seconds[NETWORK], strict=True)]
        by_name[name] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return by_name


@torch.no_grad()
def differing(snn: SpikingNetwork, images: Iterator[Tensor], count: int, steps: int) -> dict[str, Any]:
    """Return how many predictions differ from the reference's, in float32 and float64, after each step."""
    double = copy.deepcopy(snn).double()
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        REFERENCE: lambda x: snn(x, steps=steps, backend="reference"),
        OWN: lambda x: snn(x, steps=steps),
        EXACT: lambda x: snn(x, steps=steps, precision="exact"),
        "reference in float64": lambda x: double(x.double(), steps=steps),
    }
    predicted: dict[str, list[Tensor]] = {name: [] for name in runs}
    with track("predictions", count, "images") as bar:
        for x in images:
            for name, run in runs.items():
                predicted[name].append(run(x).argmax(-1))
            bar.advance(len(x))
    whole = {name: torch.cat(parts, 1) for name, parts in predicted.items()}
    pairs = [(OWN, REFERENCE), (EXACT, "reference in float64"), (REFERENCE, "reference in float64")]
    counts = {f"{a} and {b}": (whole[a] != whole[b]).sum(1).tolist() for a, b in pairs}
    return {"images": count, "differing": counts}


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    """Print the ratios, and the predictions that differ."""
    caption = "times over the full-precision network's: median (least to most of the turns)"
    table = Table(title=title, caption=caption)
    names = list(dict.fromkeys(name for each in results.values() for run in each["runs"] for name in run["ratios"]))
    for heading in ("network", "T", "ms", *names[1:]):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for path, each in results.items():
        for run in each["runs"]:
            cells = ("{median:.2f} ({least:.2f} to {most:.2f})".format(**run["ratios"][name]) for name in names[1:])
            table.add_row(path, str(run["steps"]), f"{1e3 * statistics.median(run['seconds'][NETWORK]):.0f}", *cells)
    console = Console(width=180)
    console.print(table)
    for path, each in results.items():
        for pair, counts in each.get("predictions", {}).get("differing", {}).items():
            console.print(f"{path}: of {each['predictions']['images']} predictions differ, by step, {pair}: {counts}")


def memory(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the peak of the network and of the simulation, each in a separate process, and the size of levels."""
    sizes: dict[str, Any] = {}
    for name in (NETWORK, OWN):
        command = [sys.executable, __file__, path, "--data", arguments.data, "--batch", str(arguments.batch)]
        command += ["--steps", str(arguments.steps[0]), "--peak-of", name, "--size", str(arguments.size or 0)]
        command += ["--charge-steps", str(arguments.charge_steps)] if arguments.charge_steps else []
        command += ["--device", "cpu"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        sizes[name] = json.loads(output.splitlines()[-1])
    return sizes


def peak_of(snn: SpikingNetwork, x: Tensor, steps: int, name: str) -> dict[str, int]:
    """Return the peak memory of one variant, with its input, and the size of the largest layer's levels, in bytes."""
    run = partial(own_variants(snn, with_reference=False)[name], x, steps)
    largest = 0

    def see(_: str, spikes: Tensor, __: Any) -> None:
        nonlocal largest
        largest = max(largest, math.prod(spikes.shape[1:]))

    snn.run(x[:1], steps=steps, observer=see)
    with torch.no_grad():
        run()
        sizes = peak(run)
    return sizes | {"levels": steps * largest * len(x)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a simulation over the full-precision network's forward pass.")
    parser.add_argument("qann", nargs="+", help="folders of quantized networks")
    parser.add_argument("--data", required=True, help="the data of the networks, as for qffs simulate")
    parser.add_argument("--size", type=int, help="side of photographs in pixels")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--images", type=int, default=256, help="number of images whose predictions are compared; 0: none"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--charge-steps", type=int, help="D; by default 2^bits - 1")
    parser.add_argument("--reference", action="store_true", help="time the reference simulation too, which is slow")
    parser.add_argument("--memory", action="store_true", help="measure memory instead, at the first number of steps")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all results to this file")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here")
    device = CPU if arguments.memory else torch.device(arguments.device)
    data = load_data(arguments.data, arguments.size or None, in_memory_gib=0)
    spread = torch.linspace(0, len(data.test) - 1, max(arguments.batch, arguments.images)).long()

    def images(count: int) -> Iterator[Tensor]:
        for group in spread[:count].split(arguments.batch):
            x = data.normalize(data.test.read(group)).to(device)
            yield x.contiguous(memory_format=torch.channels_last)

    x = next(images(arguments.batch))
    results: dict[str, dict[str, Any]] = {}
    for path in arguments.qann:
        snn = to_spiking(load(path, "qann").network, arguments.charge_steps)
        snn.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if arguments.peak_of:
            print(json.dumps(peak_of(snn, x, arguments.steps[0], arguments.peak_of)))
            return
        if arguments.memory:
            results[path] = memory(arguments, path)
            continue
        own = own_variants(snn, arguments.reference) | ({} if device == CPU else on_a_gpu(snn, x))
        variants = own | rivals(snn)
        results[path] = {"runs": [measured(variants, x, steps, arguments.turns) for steps in arguments.steps]}
        if arguments.images:
            results[path]["predictions"] = differing(
                snn, images(arguments.images), arguments.images, max(arguments.steps)
            )
    where = processor() if device == CPU else torch.cuda.get_device_name(device)
    title = f"{arguments.batch} images, {arguments.turns} turns, {where}, torch {torch.__version__}"
    if arguments.memory:
        for path, by_variant in results.items():
            for name, sizes in by_variant.items():
                print(path, name, {key: f"{size / 1e6:.0f} MB" for key, size in sizes.items()})
    else:
        show(results, title)
    if arguments.json:
        about = {"command": " ".join(["python", *sys.argv]), "device": where, "torch": torch.__version__}
        arguments.json.write_text(json.dumps(about | {"networks": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("TORCH_LOGS", "-all")
    main()
