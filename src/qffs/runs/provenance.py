"""The origin of a run's results: its command, code and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from qffs.files import Results
from qffs.train import distributed
from qffs.version import __version__


def provenance(device: torch.device, seconds: float) -> Results:
    """Return the command, commit, device, processes, threads, seconds and versions of a run that took ``seconds``."""
    return {
        "command": command(sys.argv),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "versions": {"qffs": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def command(arguments: list[str]) -> str:
    """Return the command line that repeats a run; with several processes, as each machine has to type it."""
    program, *rest = arguments
    name = ["qffs"] if Path(program).name in {"qffs", "__main__.py"} else [program]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        name = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1"), "-m", *name]
    return shlex.join([*name, *rest])


def commit() -> str | None:
    """Return the commit of the library's source, with "-dirty" if files changed since; None outside its repository."""
    here = Path(__file__).parent
    run = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        if not (here.parents[2] / ".git").exists():
            return None
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """Return the number of cores and their name; the name of the architecture where Linux does not name them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} CPU cores, {names[0] if names else platform.machine()}"
