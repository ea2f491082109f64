"""Processors that this process may use, and what OpenMP is told because of them before PyTorch is imported.

A machine's count of processors is too high where an affinity (``taskset``) or a container's quota leaves fewer. Threads
that wait for each other then wait for whatever else runs, and threads that spin while they wait take the time of those
they wait for. The command line and the tests add `openmp_defaults` to the environment. Importing qffs changes neither
the environment nor the number of threads: a notebook keeps its own. This file imports no torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""How long a thread that waits spins; the first is OpenMP's own name, the others those of its libraries."""
LIMITED = "QFFS_THREADS_LIMITED"
"""In the environment where `openmp_defaults` chose OMP_NUM_THREADS, so that nothing takes it for the user's choice."""


def processors(proc: Path = PROC) -> int:
    """Return how many processors this process may use, at least 1: its affinity, or its quota, rounded up, if less.

    proc: the folder in which Linux describes the process.
    """
    return max(1, math.ceil(min(_affinity(), quota(proc))))


def quota(proc: Path = PROC) -> float:
    """Return how many processors' time the cgroups of this process may use; infinity where none limits it."""
    return min((share for folder in _groups(proc) for share in (_share(folder), _share_v1(folder))), default=math.inf)


def openmp_defaults(environment: Mapping[str, str] = os.environ, proc: Path = PROC) -> dict[str, str]:
    """Return what to add to the environment: waiting threads sleep, and there are as many as a quota allows.

    What the user has set stays. OpenMP reads the environment when torch is imported, so it has to be added before.
    Without a quota nothing is said of the number of threads: PyTorch's own is one for each core.
    """
    added = {}
    if not any(name in environment for name in WAITING):
        added["OMP_WAIT_POLICY"] = "PASSIVE"
    if not any(name in environment for name in THREADS) and quota(proc) < _affinity():
        added |= {"OMP_NUM_THREADS": str(processors(proc)), LIMITED: "1"}
    return added


def threads_are_set(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the user has set a number of threads."""
    return LIMITED not in environment and any(name in environment for name in THREADS)


def _affinity() -> int:
    """The processors that the system lets this process run on; all of the machine where it does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _groups(proc: Path) -> Iterator[Path]:
    """The folder of each cgroup that may limit this process: its own and all above it that are to be seen."""
    lines = (fields for fields in _fields(proc / "cgroup", ":", 2) if len(fields) == 3)
    own = {name: path for _, names, path in lines for name in names.split(",")}
    for fields in _fields(proc / "mountinfo", " "):
        if "-" not in fields[5:]:
            continue
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        name = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if name not in own or (name and name not in options.split(",")):
            continue
        root, mounted = (field.replace(r"\040", " ") for field in fields[3:5])
        path = PurePosixPath(own[name])
        # What lies outside the part of the tree that is mounted cannot be read; its root is the nearest that can.
        below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
        yield from (Path(mounted) / each for each in (below, *below.parents))


def _fields(path: Path, separator: str, most: int = -1) -> list[list[str]]:
    """The fields of each line of a file; none where it cannot be read."""
    try:
        return [line.split(separator, most) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def _share(folder: Path) -> float:
    """The quota of a cgroup of version 2: ``cpu.max`` holds microseconds of a period, or "max", and the period."""
    return _ratio([word for line in _fields(folder / "cpu.max", " ") for word in line])


def _share_v1(folder: Path) -> float:
    """The quota of a cgroup of version 1, in two files; -1 where there is none."""
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    return _ratio([word for name in names for line in _fields(folder / name, " ") for word in line])


def _ratio(words: list[str]) -> float:
    """Quota over period; infinity where the two numbers are no limit."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return math.inf
    return int(words[0]) / int(words[1])
