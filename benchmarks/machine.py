"""The machine that a benchmark runs on."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Return the number of PyTorch's threads and the name of the processor."""
    name, threads = platform.processor() or platform.machine(), torch.get_num_threads()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{threads} thread{'s' * (threads > 1)} of {name}"
