"""The peak of memory that a computation takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch


def peak(run: Callable[[], object]) -> dict[str, int]:
    """Bytes beyond those held before: as PyTorch's allocator sees them, and as the system does, where it says.

    On CPUs it runs twice, the second time under PyTorch's profiler; a first run should have gone before.
    """
    found = {}
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        run()
        found["resident"] = resident("VmHWM") - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return {"allocated": most, **found}


def resident(key: str) -> int:
    """What the system says of this process, ``VmRSS`` now and ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
