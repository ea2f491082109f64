"""What a simulation of T steps costs over one forward pass of the full-precision network with the same weights.

    python benchmarks/simulate.py runs/cifar10_resnet18_narrow/qann --data cifar10:PATH --json simulate.json

The network is that of a checkpoint of a quantised network, and the images are the first of the test part: how much
there is to compute depends on when neurons settle, so that trained weights and real images are needed. Compared, in one
process and by turns: the network with ReLUs where the neurons are, batch norms folded (``network``); the reference
simulation; and the one by what has accumulated (`SpikingNetwork.readout`). A ratio is the median over the turns of its
time over that of the network in the same turn, with the smallest and the largest. Predictions after T steps are
compared with the reference's, on all images.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx

from qffs import load, to_spiking
from qffs.data import load as load_data
from qffs.network import SpikingNetwork
from qffs.nn.neuron import Neuron
from qffs.progress import track

NETWORK, REFERENCE, ACCUMULATED = "network", "reference", "accumulated"


def with_relus(snn: SpikingNetwork) -> fx.GraphModule:
    """The full-precision network: ReLUs in the place of the neurons."""
    network = fx.GraphModule(snn.graph, copy.deepcopy(snn.graph.graph))
    for node in list(network.graph.nodes):
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), Neuron):
            with network.graph.inserting_before(node):
                node.replace_all_uses_with(network.graph.call_function(torch.relu, node.args))
            network.graph.erase_node(node)
    network.recompile()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def measured(snn: SpikingNetwork, x: Tensor, steps: int, turns: int) -> dict[str, Any]:
    """Seconds of each variant in each turn, and how many predictions are those of the reference."""
    network = with_relus(snn)
    variants: dict[str, Callable[[], Tensor]] = {
        NETWORK: lambda: network(x),
        ACCUMULATED: lambda: snn.readout(x, steps=steps),
        REFERENCE: lambda: snn(x, steps=steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with torch.no_grad(), track(f"{steps} steps", (turns + 1) * len(variants), "runs") as bar:
        predicted = {}
        for name, run in variants.items():  # not counted: kernels are compiled here
            result = run()
            predicted[name] = (result if name == NETWORK else result[-1]).argmax(-1)
            bar.advance(note=name)
        for turn in range(turns):
            names = list(variants)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.perf_counter()
                variants[name]()
                seconds[name].append(time.perf_counter() - start)
                bar.advance(note=name)
    equal = float((predicted[ACCUMULATED] == predicted[REFERENCE]).float().mean())
    return {"steps": steps, "seconds": seconds, "equal": equal, "ratios": ratios(seconds)}


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    found = {}
    for name, own in seconds.items():
        each = [a / b for a, b in zip(own, seconds[NETWORK], strict=True)]
        found[name] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return found


def show(results: dict[str, list[dict[str, Any]]], title: str) -> None:
    table = Table(
        title=title, caption="ratios are over the full-precision network: median (least to most of the turns)"
    )
    table.add_column("network")
    for heading in ("T", "network ms", "accumulated ratio", "reference ratio", "equal predictions"):
        table.add_column(heading, justify="right")
    for path, runs in results.items():
        for run in runs:
            told = [
                "{median:.2f} ({least:.2f} to {most:.2f})".format(**run["ratios"][n]) for n in (ACCUMULATED, REFERENCE)
            ]
            network_ms = f"{1e3 * statistics.median(run['seconds'][NETWORK]):.0f}"
            table.add_row(path, str(run["steps"]), network_ms, *told, f"{100 * run['equal']:.2f} %")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a simulation over the full-precision network's forward pass.")
    parser.add_argument("qann", nargs="+", help="folders of quantised networks")
    parser.add_argument("--data", required=True, help="what the networks were trained on, as qffs simulate takes it")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--charge-steps", type=int, help="D; by default that of the bits")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    arguments = parser.parse_args()
    data = load_data(arguments.data, in_memory_gib=0)
    x = data.normalise(data.test.read(torch.arange(arguments.batch))).contiguous(memory_format=torch.channels_last)
    results: dict[str, list[dict[str, Any]]] = {}
    for path in arguments.qann:
        snn = to_spiking(load(path).network, arguments.charge_steps)
        snn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        results[path] = [measured(snn, x, steps, arguments.turns) for steps in arguments.steps]
    show(results, f"{arguments.batch} images, {arguments.turns} turns, {processor()}, torch {torch.__version__}")
    if arguments.json:
        about = {"command": " ".join(["python", *sys.argv]), "device": processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps(about | {"networks": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
