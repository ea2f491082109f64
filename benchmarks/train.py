"""Measure the cost of quantized training: time and peak memory of a step on ResNet-18, over full precision.

    python benchmarks/train.py --batch 128 --repeats 7 --precision float32 --json training.json

A step is forward, cross-entropy, backward and SGD with momentum, channels last, at 32 x 32. All variants are the same
network except for the module in the place of ReLUs, with 2-bit activations. They run in one process, one step of each
in turn. A ratio is the time of a variant over that of full precision in the same turn: the median over the turns, with
the smallest and the largest. Steps before the first turn are not counted, because kernels are compiled in them.

Memory is measured in a new process for each variant, after the same first steps. On CUDA it is
``torch.cuda.max_memory_allocated`` of one step. On CPU it is the same quantity from PyTorch's profiler: the memory
before the step (parameters, buffers, momentum, the batch) plus the peak of the step's allocations minus its frees.
``resident`` is a check by the operating system: the same start plus the growth of the process's resident set (Linux
only; VmHWM, reset before the step, with glibc set to return freed memory at once). It includes memory that convolutions
allocate outside PyTorch.

On a busy machine use one thread, ``OMP_NUM_THREADS=1``: threads that wait for each other also wait for other processes.
The ratio of processor time leaves out the time in which the process did not run; it has no meaning on CUDA. brevitas is
left out if it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import processor
from memory import peak
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qffs.nn.quantizer import Quantizer, fuse
from qffs.progress import track

HIGHEST = 3
FIRST_STEPS = 2
FULL = "full precision"


class PlainQuantizer(nn.Module):
    """LSQ in a few lines of ordinary operations, as in tutorials; each saves the tensors for its own backward pass."""

    def __init__(self, highest: int) -> None:
        super().__init__()
        self.highest = highest
        self.step_size = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / (x[0].numel() * self.highest) ** 0.5
        step_size = (self.step_size - self.step_size * scale).detach() + self.step_size * scale
        clipped = (x / step_size).clamp(0, self.highest)
        return (clipped + (clipped.round() - clipped).detach()) * step_size


def brevitas_quantizer() -> nn.Module:
    """Return the quantizer of brevitas that learns its step size from the first step on."""
    from brevitas.nn import QuantReLU  # type: ignore[import-untyped]
    from brevitas.quant.scaled_int import Uint8ActPerTensorFloatMaxInit  # type: ignore[import-untyped]

    return QuantReLU(act_quant=Uint8ActPerTensorFloatMaxInit, bit_width=2, min_val=0.0, max_val=3.0)


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    FULL: partial(nn.ReLU, inplace=True),
    "qffs, fused": partial(Quantizer, HIGHEST),
    "qffs, reference": partial(Quantizer, HIGHEST),
    "plain PyTorch": partial(PlainQuantizer, HIGHEST),
    "brevitas": brevitas_quantizer,
}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.act1, self.act2 = activation(), activation()
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(branch + self.shortcut(x))


def resnet18(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Return ResNet-18 for images of 32 x 32: its stem is a 3 x 3 convolution without pooling."""
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), activation()]
    inputs = 64
    for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(Block(inputs, outputs, stride, activation))
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Trainer:
    """One variant with its optimizer and a batch."""

    def __init__(self, name: str, batch: int, precision: str, device: str) -> None:
        torch.manual_seed(0)
        self.network = resnet18(VARIANTS[name]).to(device).to(memory_format=torch.channels_last)
        fuse(self.network, name == "qffs, fused")
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, 0.9, weight_decay=5e-4)
        self.x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (batch,), device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def step(self) -> None:
        self.optimizer.zero_grad()
        with self.autocast:
            loss = F.cross_entropy(self.network(self.x).float(), self.labels)
        loss.backward()
        self.optimizer.step()
        if self.x.is_cuda:
            torch.cuda.synchronize()

    def bytes_held(self) -> int:
        """Return the bytes of all tensors that exist between two steps, without gradients."""
        state = [v for values in self.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
        tensors = [*self.network.parameters(), *self.network.buffers(), *state, self.x, self.labels]
        return sum(tensor.nbytes for tensor in tensors)


def timed(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds of a step, and its processor time in seconds."""
    start, worked = time.perf_counter(), time.process_time()
    trainer.step()
    return time.perf_counter() - start, time.process_time() - worked


def peak_of_step(trainer: Trainer) -> dict[str, int]:
    """Return the peak memory of one step in bytes, from PyTorch's allocator and, on Linux, from the system."""
    for _ in range(FIRST_STEPS):
        trainer.step()
    trainer.optimizer.zero_grad()
    if trainer.x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        trainer.step()
        return {"allocated": torch.cuda.max_memory_allocated()}

    def step() -> None:
        trainer.step()
        trainer.optimizer.zero_grad()

    return {name: trainer.bytes_held() + size for name, size in peak(step).items()}


def memory(name: str, arguments: argparse.Namespace) -> dict[str, int]:
    """Return `peak_of_step` of a variant, measured in a new process."""
    command = [sys.executable, __file__, "--memory-of", name, "--batch", str(arguments.batch)]
    command += ["--precision", arguments.precision, "--device", arguments.device]
    glibc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=os.environ | glibc, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(names: list[str], arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return for each variant the seconds of its first steps and of its step in each turn, and its peak memory."""
    results: dict[str, dict[str, Any]] = {name: {} for name in names}
    with track("memory", len(names), "processes") as bar:
        for name in names:
            results[name]["bytes"] = memory(name, arguments)
            bar.advance(note=name)
    trainers = {}
    with track("time", len(names) * (arguments.repeats + FIRST_STEPS), "steps") as bar:
        for name in names:
            trainers[name] = Trainer(name, arguments.batch, arguments.precision, arguments.device)
            results[name]["first_steps_s"] = [timed(trainers[name])[0] for _ in range(FIRST_STEPS)]
            results[name] |= {"step_s": [], "processor_s": []}
            bar.advance(FIRST_STEPS, f"first steps of {name}")
        for turn in range(arguments.repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for key, value in zip(("step_s", "processor_s"), timed(trainers[name]), strict=True):
                    results[name][key].append(value)
                bar.advance(note=name)
    return results


def compare(results: dict[str, dict[str, Any]]) -> None:
    """Add to each variant its ratios over full precision; for time, the median, least and most over the turns."""
    full = results[FULL]
    for result in results.values():
        for key in ("step_s", "processor_s"):
            ratios = [own / other for own, other in zip(result[key], full[key], strict=True)]
            result[f"{key}_ratio"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        result["bytes_ratio"] = {key: value / full["bytes"][key] for key, value in result["bytes"].items()}


def show(results: dict[str, dict[str, Any]], title: str) -> None:
    table = Table(title=title, caption="ratios are over full precision: median (least to most of the turns)")
    table.add_column("variant")
    for heading in ("first steps s", "step ms", "time ratio", "processor ratio", "peak MB", "ratio", "resident ratio"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        times = [
            "{median:.3f} ({least:.3f} to {most:.3f})".format(**result[f"{key}_ratio"])
            for key in ("step_s", "processor_s")
        ]
        steps = [f"{sum(result['first_steps_s']):.1f}", f"{1e3 * statistics.median(result['step_s']):.0f}"]
        peaks = [f"{ratio:.3f}" for ratio in result["bytes_ratio"].values()]
        table.add_row(name, *steps, *times, f"{result['bytes']['allocated'] / 1e6:.0f}", *peaks)
    Console(width=140).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and peak memory of a 2-bit training step over full precision.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    parser.add_argument("--memory-of", choices=tuple(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.memory_of:
        trainer = Trainer(arguments.memory_of, arguments.batch, arguments.precision, arguments.device)
        print(json.dumps(peak_of_step(trainer)))
        return
    names = list(VARIANTS)
    if importlib.util.find_spec("brevitas") is None:
        print("brevitas is not installed, and left out: pip install brevitas", file=sys.stderr)
        names.remove("brevitas")
    results = measure(names, arguments)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else processor()
    title = f"ResNet-18, 32 x 32, batch {arguments.batch}, {arguments.precision}, {arguments.repeats} turns, {device}"
    compare(results)
    show(results, title)
    if arguments.json:
        about = {"command": " ".join(["python", *sys.argv]), "device": device, "versions": versions(names)}
        about |= {"batch": arguments.batch, "precision": arguments.precision, "variants": results}
        arguments.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def versions(names: list[str]) -> dict[str, str]:
    packages = ("torch", "brevitas") if "brevitas" in names else ("torch",)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


if __name__ == "__main__":
    main()
