"""The command line, whose launcher is asked to stop when process 0 calls ``torch.optim.SGD.step`` for the n-th time.

``stopped_cli.py N ARGUMENTS...``; without a launcher, or with N = 0, it is the command line as it is.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from qffs.cli import main

if __name__ == "__main__":
    left, step = int(sys.argv.pop(1)), torch.optim.SGD.step

    def counted(*arguments: Any, **more: Any) -> Any:
        """One step, and at the n-th one SIGTERM to the launcher, which passes it on."""
        global left  # noqa: PLW0603
        left -= 1
        if not left and os.environ.get("RANK") == "0":
            os.kill(os.getppid(), signal.SIGTERM)
        return step(*arguments, **more)

    torch.optim.SGD.step = counted  # type: ignore[method-assign]
    main()
