"""The peak of memory that a computation takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch


def peak(run: Callable[[], object]) -> dict[str, int]:
    """Return the peak in bytes beyond the memory before, from PyTorch's allocator and, on Linux, from the system.

    The function runs twice, the second time under PyTorch's profiler. Call it once before, so that nothing is compiled.
    """
    sizes = {}
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        run()
        sizes["resident"] = resident("VmHWM") - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return {"allocated": most, **sizes}


def resident(key: str) -> int:
    """Return this process's memory in bytes as the system reports it: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
