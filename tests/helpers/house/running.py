"""Which files of the package are loaded and entered by a call, measured in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from inspect import CO_OPTIMIZED
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """Files of the package, by their paths in it: those that were loaded, and those in which a function was called."""

    loaded: list[str]
    entered: list[str]


def train_digits() -> None:
    """`qffs train digits`, with one epoch of each training that the recipe names."""
    import qffs
    from qffs.cli import main

    recipe = (Path(qffs.__path__[0]) / "recipes" / "digits.yaml").read_text(encoding="utf-8")
    epochs = [f"{part}.epochs=1" for part in re.findall(r"^(\w+):\n  epochs:", recipe, re.MULTILINE)]
    sys.argv[1:] = ["train", "digits", *epochs, "--output", str(Path(tempfile.mkdtemp()) / "run")]
    main()


def simulate() -> Callable[[], object]:
    """Return the call ``snn(x, steps=8)`` of a convolutional network that is ready for it."""
    import torch
    from torch import nn

    import qffs

    torch.manual_seed(0)
    x = torch.rand(4, 1, 8, 8)
    body = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 3))
    snn = qffs.to_spiking(qffs.calibrate(qffs.quantize(model, bits=2, example=x), [x], "lsq"))
    call = getattr(snn, "readout", snn)  # what the fast simulation was called before it had one name
    return lambda: call(x, steps=8)


LOOPS = {"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"}

CALLS = {"train": lambda: train_digits, "simulate": simulate}
"""What can be measured: functions that prepare a call and return it."""


def measured(name: str, source: Path) -> Run:
    """Return what one of `CALLS` loads and enters of the package at ``source``, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(source.parent), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "run.json"
        command = [sys.executable, __file__, name, str(source), str(result)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if not result.exists():
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return Run(**json.loads(result.read_text(encoding="utf-8")))


def _main(name: str, source: Path, result: Path) -> None:
    """Run one of `CALLS` and write what it loaded and entered."""
    import threading

    call = CALLS[name]()
    entered: set[str] = set()

    def profile(frame, event, _argument) -> None:  # type: ignore[no-untyped-def]
        code = frame.f_code
        # Modules and bodies of classes are not functions; loops in expressions may run when a file is loaded.
        if event == "call" and code.co_flags & CO_OPTIMIZED and code.co_name not in LOOPS:
            entered.add(code.co_filename)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    paths = {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
    ours = [sorted(str(Path(path).relative_to(source)) for path in each if Path(path).is_relative_to(source))
            for each in (paths, entered)]  # fmt: skip
    result.write_text(json.dumps(dict(zip(Run._fields, ours, strict=True))), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
