"""Processors that this process may use, what OpenMP is told because of them, and the threads of a run.

A machine's count of processors is too high where an affinity (``taskset``) or a container's quota leaves fewer. Threads
that wait for each other then wait for whatever else runs, and threads that spin while they wait take the time of those
they wait for. The command line and the tests add `openmp_defaults` to the environment. Importing qffs changes neither
the environment nor the number of threads: a notebook keeps its own. A run of a small network computes with one thread
(`threads_for`). OpenMP reads the environment when torch is imported, so this file imports torch only when it is used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

PROC = Path("/proc/self")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""How long a thread that waits spins; the first is OpenMP's own name, the others those of its libraries."""
LIMITED = "QFFS_THREADS_LIMITED"
"""In the environment where `openmp_defaults` chose OMP_NUM_THREADS, so that nothing takes it for the user's choice."""
SMALL = 2**24
"""Multiply-adds of a layer for a batch, on average, below which a network is small: a third of a millisecond's work."""


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


@contextmanager
def threads_for(network: nn.Module, example: Tensor, batch_size: int) -> Iterator[None]:
    """Compute with one thread until the block ends where the network is small, whatever the machine.

    example: some images, as the network reads them. A small network is one whose layers take
    fewer than `SMALL` multiply-adds on average for a batch. It then gives the same results on machines of any number of
    processors. Other networks keep PyTorch's number of threads, at most one for each of `processors`, and so do all
    where the user has set OMP_NUM_THREADS or MKL_NUM_THREADS. After the block the number is what it was before.
    """
    import torch

    before = torch.get_num_threads()
    if not example.is_cuda and not threads_are_set():
        small = multiply_adds(network, example) * batch_size < SMALL
        torch.set_num_threads(1 if small else min(before, processors()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiply_adds(network: nn.Module, example: Tensor) -> float:
    """Return the multiply-adds for one image of a layer with weights, on average; infinity where there is no layer.

    Layers are modules whose ``weight`` has an axis of outputs and another: convolutions, linear layers.

    >>> from torch import nn
    >>> multiply_adds(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(3, 8))
    20.0
    """
    import torch

    from qffs.nn.inspect import evaluating

    counts: list[float] = []

    def count(rows: float, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(rows * output.numel() / len(example))

    weights = ((each, getattr(each, "weight", None)) for each in network.modules())
    hooks = [
        each.register_forward_hook(partial(count, math.prod(weight.shape[1:])))
        for each, weight in weights
        if isinstance(weight, torch.Tensor) and weight.dim() > 1
    ]
    try:
        with torch.no_grad(), evaluating(network):
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts) / len(counts) if counts else math.inf


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
