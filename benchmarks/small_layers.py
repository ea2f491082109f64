"""Time of a simulation on two threads: small layers on one of them, and all layers on both, by turns.

    GOMP_SPINCOUNT=300000 python benchmarks/small_layers.py --images 1 --turns 100
    OMP_WAIT_POLICY=PASSIVE python benchmarks/small_layers.py --model cifar_resnet18 --width 32 --images 32 --steps 4

The turns alternate in one process, so that both see the same machine. Prints medians of time and processor time, as
JSON. The environment of OpenMP says how threads wait. ``load`` is how many processes wanted to run in the last minute,
when the turns began and ended.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import torch
from machine import processor

import qffs
from qffs.data import load
from qffs.kernels.cpu import queue
from qffs.models import build

SETTINGS = {"all layers on two threads": 0, "small layers on one": queue.SMALL}


def measure(snn: torch.nn.Module, x: torch.Tensor, steps: int, turns: int) -> dict[str, dict[str, float]]:
    """Return the medians of each setting, in milliseconds; raises `AssertionError` where the outputs differ."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    outputs = {}
    for turn in range(turns + 1):  # the first is not counted
        for name in list(SETTINGS)[:: 1 if turn % 2 == 0 else -1]:
            queue.SMALL = SETTINGS[name]
            start, start_of_processor = time.perf_counter(), time.process_time()
            outputs[name] = snn(x, steps=steps)
            times[name].append((time.perf_counter() - start, time.process_time() - start_of_processor))
    first, second = outputs.values()
    assert torch.equal(first, second), "the outputs depend on the threads"
    return {
        name: {
            key: round(1000 * statistics.median(values), 2)
            for key, values in zip(("ms", "processor_ms"), zip(*pairs[1:], strict=True), strict=True)
        }
        for name, pairs in times.items()
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds of a simulation with small layers on one thread or two.")
    parser.add_argument("--model", default="digits_net", help="for 32 x 32 images unless digits_net")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=100)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    digits = load("digits")
    x = digits.normalize(digits.train.read(torch.arange(max(arguments.images, 32))))
    if arguments.model != "digits_net":
        x = torch.randn(len(x), 3, 32, 32)
    model = build(arguments.model, width=arguments.width).eval()
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, 2, example=x[:32]), [x[:32]], "lsq"))
    load_before = round(os.getloadavg()[0], 1)
    medians = measure(snn, x[: arguments.images], arguments.steps, arguments.turns)
    about = vars(arguments) | {"device": processor(), "load": [load_before, round(os.getloadavg()[0], 1)]}
    print(json.dumps(about | {"medians": medians}, indent=2))


if __name__ == "__main__":
    main()
